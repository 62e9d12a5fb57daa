"""From a manifest's prompt section and its files to the prompt predictor, checked before anything relies on it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from predictor_service.bins import Array
from predictor_service.classifier import Graph
from predictor_service.prompt import Counts, Ids, Prompt, PromptPredictor
from predictor_service.prompt_section import CountsSection, TextSection, TokensSection
from predictor_service.prompt_sequence import Frame, SequencePredictor, TextIds, TokenIds

Section = CountsSection | TokensSection | TextSection
CANARY_TOLERANCE = 5e-3
_LONG = 10_000


def graph_inputs(section: Section) -> dict[str, tuple[str, list[Any]]]:
    """Element type and shape, the batch left out, of each input that the graph must have; None: any length."""
    if isinstance(section, CountsSection):
        return {"features": ("tensor(float)", [section.buckets + 1])}
    return {"ids": ("tensor(int32)", [None]), "tokens": ("tensor(float)", [])}


def build(section: Section, graph: Graph, tokenizers: Mapping[str, bytes]) -> PromptPredictor:
    """The predictor; `tokenizers` holds the contents of the files that the kind `text` needs. Raises ValueError."""
    if isinstance(section, CountsSection):
        return Counts(graph, section.buckets)
    return SequencePredictor(graph, reader(section, tokenizers))


def reader(section: TokensSection | TextSection, tokenizers: Mapping[str, bytes]) -> TokenIds | TextIds:
    """What turns a prompt into the graph's ids, in service as in training."""
    frame = Frame(np.array(section.prefix, dtype=np.uint32), np.array(section.suffix, dtype=np.uint32))
    if isinstance(section, TokensSection):
        return TokenIds(frame, section.most_ids, section.vocabulary)
    llm, encoder = (tokenizers[name] for name in ("llm_tokenizer.json", "prompt_tokenizer.json"))
    return TextIds(frame, section.most_ids, section.most_pieces, llm=llm, encoder=encoder)


def check(section: Section, predictor: PromptPredictor) -> None:
    """Runs the canary, and a prompt beyond every limit. Raises ValueError naming what is wrong."""
    _distribution(predictor, np.full(_LONG, 2**32 - 1, dtype=np.uint32), "a prompt of unknown ids")
    if section.canary is None:
        return
    ids = np.array(section.canary.token_ids, dtype=np.uint32)
    _distribution(predictor, np.resize(ids, _LONG), "a prompt beyond every limit")
    actual = _distribution(predictor, ids, "prompt.canary")
    expected = np.array(section.canary.probabilities)
    if expected.shape != actual.shape:
        raise ValueError(f"prompt.canary.probabilities: {len(expected)} entries instead of {len(actual)}")
    error = float(np.abs(actual - expected).max())
    if not error <= CANARY_TOLERANCE:
        raise ValueError(f"prompt.canary: probabilities are off by {error:.4f} (limit {CANARY_TOLERANCE})")


def _distribution(predictor: PromptPredictor, ids: Ids, what: str) -> Array:
    try:
        found: Array = predictor([Prompt(ids, len(ids))])[0]
    except Exception as error:  # ONNX Runtime's exceptions share no public base class.
        raise ValueError(f"prompt.onnx: cannot read {what}: {error}") from error
    if not (np.isfinite(found).all() and abs(found.sum() - 1) < 1e-3):
        raise ValueError(f"prompt.onnx: {what} gives no distribution")
    return found
