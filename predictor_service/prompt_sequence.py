"""The prompt kinds that read ids in order: the served LLM's own (`tokens`), or a text encoder's (`text`)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from predictor_service.bins import Array
from predictor_service.classifier import Graph
from predictor_service.prompt import Ids, Prompt, excerpt

Sequence32 = npt.NDArray[np.int32]
PADDING = -1
# Rows times columns of one run: enough to fill a core, little enough to stay in its cache (measured).
BATCH_IDS = 512


class SequencePredictor:
    """Runs a graph with the inputs `ids` int32 [N, T], PADDING on the right, and `tokens` float32 [N]."""

    def __init__(self, graph: Graph, encode: Callable[[Prompt], Sequence32]) -> None:
        self._graph = graph
        self._encode = encode

    def __call__(self, prompts: Sequence[Prompt]) -> Array:
        encoded = [self._encode(prompt) for prompt in prompts]
        tokens = np.array([prompt.tokens for prompt in prompts], dtype=np.float32)
        found = np.zeros((len(prompts), int(self._graph.bins)))
        for rows in batches([len(ids) for ids in encoded], BATCH_IDS):
            found[rows] = self._graph.run(ids=padded([encoded[row] for row in rows]), tokens=tokens[rows])
        return found


def batches(lengths: Sequence[int], most_ids: int) -> Iterator[list[int]]:
    """Groups of indices of similar length; padded, none holds more than `most_ids` ids unless it is a single one."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):  # rising: the newest is the longest
        if batch and lengths[index] * (len(batch) + 1) > most_ids:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def padded(rows: Sequence[Sequence32]) -> Sequence32:
    """[N, longest], PADDING on the right."""
    matrix = np.full((len(rows), max(map(len, rows))), PADDING, dtype=np.int32)
    for row, ids in zip(matrix, rows, strict=True):
        row[: len(ids)] = ids
    return matrix


@dataclass(frozen=True)
class Frame:
    """The ids that a chat template puts around each user's words: they say nothing and cost time."""

    prefix: Ids
    suffix: Ids

    def inside(self, ids: Ids) -> Ids:
        """`ids` without the frame; each end stays where it is another one than expected."""
        end = len(ids) - len(self.suffix)
        if len(self.suffix) and end >= 0 and np.array_equal(ids[end:], self.suffix):
            ids = ids[:end]
        if np.array_equal(ids[: len(self.prefix)], self.prefix):
            ids = ids[len(self.prefix) :]
        return ids


@dataclass(frozen=True)
class TokenIds:
    """Reads the served LLM's own ids. Ids from `vocabulary` on count as one unknown id, as does an empty prompt."""

    frame: Frame
    most_ids: int
    vocabulary: int

    @property
    def unknown(self) -> int:
        return self.vocabulary

    def __call__(self, prompt: Prompt) -> Sequence32:
        ids = excerpt(self.frame.inside(prompt.token_ids), self.most_ids)
        known = np.minimum(ids, self.vocabulary).astype(np.int32)
        return known if len(known) else np.array([self.vocabulary], dtype=np.int32)


class TextIds:
    """Turns the served LLM's ids back into text, and that into the ids of a text encoder.

    `llm` and `encoder` are contents of `tokenizer.json` files. Needs the package `tokenizers`; raises ValueError
    without it, or for a content that it cannot read.
    """

    def __init__(self, frame: Frame, most_ids: int, most_pieces: int, *, llm: bytes, encoder: bytes) -> None:
        self.frame = frame
        self.most_ids = most_ids
        self._llm = _tokenizer("llm_tokenizer.json", llm)
        self._encoder = _tokenizer("prompt_tokenizer.json", encoder)
        self._encoder.no_padding()
        self._encoder.enable_truncation(most_pieces)

    @property
    def unknown(self) -> int:
        """The encoder's own unknown piece."""
        return int(self._encoder.token_to_id("[UNK]") or 0)

    def __call__(self, prompt: Prompt) -> Sequence32:
        ids = excerpt(self.frame.inside(prompt.token_ids), self.most_ids)
        text = self._llm.decode(ids.tolist())
        return np.array(self._encoder.encode(text).ids, dtype=np.int32)


def _tokenizer(file: str, content: bytes) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ValueError(f"{file}: the prompt kind text needs the package tokenizers") from error
    try:
        return Tokenizer.from_str(content.decode())
    except Exception as error:  # tokenizers raises bare Exception.
        raise ValueError(f"{file}: not a tokenizer: {error}") from error
