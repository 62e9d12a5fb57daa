"""Every kind of prompt predictor is trained on a world of few words, exported, and served."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers

from predictor_service import prompt_stage
from predictor_service.classifier import Graph
from predictor_service.prompt import Prompt, PromptPredictor
from predictor_service.prompt_sequence import Frame
from predictor_service.training.collect import TEST, TRAIN, VALIDATION, Responses
from predictor_service.training.labels import log_edges
from predictor_service.training.prompt_corpus import unanswered
from predictor_service.training.prompt_export import SECTION, prompt_files
from predictor_service.training.prompt_fit import PromptFit, fit_prompts, spread
from predictor_service.training.prompt_recipes import RECIPES

WORDS = ["list", "name", "write", "essay", "poem", "about", "one", "two", "many", "cats", "dogs", "rivers", "cities"]
# What each word adds to a response, as a factor.
FACTOR = dict(zip(WORDS, [2, 0.3, 3, 6, 2, 1, 0.4, 0.7, 3, 1, 1, 1.2, 1], strict=True))
UNKNOWN = "[UNK]"
FRAME = ["<s>", "user"], ["</s>", "answer"]
EDGES = log_edges(8, 4, 256)
PROMPTS = 600
KINDS = ["counts", "tokens", "tokens_distilled", "text_buckets", "text_ranked", "llm"]


def _tokenizer(words: list[str]) -> tokenizers.Tokenizer:
    vocabulary = {word: i for i, word in enumerate([UNKNOWN, "[CLS]", "[SEP]", *words])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token=UNKNOWN))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return made


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llm")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    _tokenizer([*FRAME[0], *FRAME[1], *WORDS]).save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=256,
    )
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer = _tokenizer(WORDS[::-1])
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def texts() -> list[str]:
    rng = np.random.default_rng(3)
    return [" ".join(rng.choice(WORDS, rng.integers(2, 9))) for _ in range(PROMPTS)]


@pytest.fixture(scope="module")
def responses(llm: Path, texts: list[str]) -> Responses:
    """Three samples of each training prompt, one of each held-out one; the last 100 prompts were never asked."""
    rng = np.random.default_rng(4)
    tokenizer = tokenizers.Tokenizer.from_file(str(llm / "tokenizer.json"))
    rows, prompt, size, split = [], [], [], []
    for i, text in enumerate(texts[:-100]):
        part = (VALIDATION, TEST)[i % 2] if i < 160 else TRAIN
        ids = tokenizer.encode(" ".join([*FRAME[0], text, *FRAME[1]])).ids
        mean = 12 * np.prod([FACTOR[word] for word in text.split()])
        for _ in range(3 if part == TRAIN else 1):
            length = int(np.clip(mean * np.exp(rng.normal(0, 0.3)), 1, 256))
            rows.append(np.array([*ids, *([0] * length)], dtype=np.int32))
            prompt.append(i)
            size.append(len(ids))
            split.append(part)
    offsets = np.cumsum([0, *map(len, rows)])
    cut = np.diff(offsets) - np.array(size) >= 256
    return Responses(
        prompt=np.array(prompt),
        split=np.array(split),
        seed=np.arange(len(prompt)),
        prompt_tokens=np.array(size),
        finished=~cut,
        tokens=np.concatenate(rows),
        offsets=offsets,
    )


@pytest.fixture(scope="module")
def fits(responses: Responses, texts: list[str], llm: Path, bert: Path) -> dict[str, PromptFit]:
    quick: dict[str, Any] = {"batch_prompts": 32, "learning_rate": 3e-3, "body_learning_rate": 3e-3, "epochs": 8}
    recipes = {
        name: replace(RECIPES[name], **quick)
        for name in ("tokens", "tokens_distilled", "text_buckets", "text_ranked", "llm")
    }
    return fit_prompts(responses, texts, EDGES, llm, bert, KINDS, 0, torch.device("cpu"), print, recipes)


def _served(fit: PromptFit) -> PromptPredictor:
    section, files = prompt_files(fit)
    graph = Graph(files["prompt.onnx"], threads=1)
    return prompt_stage.build(SECTION.validate_python(json.loads(json.dumps(section))), graph, files)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns_which_prompts_are_answered_at_length(fits: dict[str, PromptFit], kind: str) -> None:
    # Nobody has trained the layers of this LLM, and counts know nothing of order.
    assert fits[kind].metrics["kendall_tau"] > (0.35 if kind in ("counts", "llm") else 0.7)


@pytest.mark.parametrize("kind", KINDS)
def test_the_service_says_of_held_out_prompts_what_training_said(
    fits: dict[str, PromptFit], responses: Responses, kind: str
) -> None:
    rows = np.flatnonzero(responses.split == TEST)
    prompts = [Prompt(responses.sequence(r)[: responses.prompt_tokens[r]].astype(np.uint32), 0) for r in rows]
    prompts = [replace(prompt, tokens=len(prompt.token_ids)) for prompt in prompts]
    assert _served(fits[kind])(prompts) == pytest.approx(fits[kind].test, abs=0.02)


def test_what_is_exported_is_small_and_says_what_it_reads(fits: dict[str, PromptFit]) -> None:
    section, files = prompt_files(fits["tokens"])
    assert sorted(files) == ["prompt.onnx"]
    assert section["kind"] == "tokens"
    assert section["vocabulary"] == 40
    assert (section["prefix"], section["suffix"]) == ([3, 4], [5, 6])
    section, files = prompt_files(fits["text_ranked"])
    assert sorted(files) == ["llm_tokenizer.json", "prompt.onnx", "prompt_tokenizer.json"]
    assert prompt_files(fits["llm"])[0]["prefix"] == []


def test_a_graph_that_strays_from_its_network_is_not_exported(fits: dict[str, PromptFit]) -> None:
    fit = fits["tokens"]
    other = replace(fit, probes=fit.probes[::-1], networks=(_Sharper(fit.networks[0]),))  # type: ignore[index]
    with pytest.raises(ValueError, match=r"prompt\.onnx: probabilities differ"):
        prompt_files(other)


class _Sharper(torch.nn.Module):  # type: ignore[misc]
    """Says something else than its parts, from which the graph is made."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name) if name == "network" else getattr(super().__getattr__("network"), name)

    def forward(self, ids: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return 3 * self.network(ids, tokens)


def test_a_class_spreads_evenly_over_the_bins_it_covers() -> None:
    shares = spread(np.array([0, 10, 20]), np.array([0, 5, 12]), cap=29)
    assert shares == pytest.approx(np.array([[0.5, 0.5, 0], [0, 0.2, 0.8], [0, 0, 1]]))


def test_prompts_that_nobody_answered_are_found_and_copies_of_answered_ones_left_out(
    responses: Responses, texts: list[str], llm: Path
) -> None:
    frame = Frame(np.array([3, 4], dtype=np.uint32), np.array([5, 6], dtype=np.uint32))
    found = unanswered([*texts[:-1], texts[0]], responses, llm, frame)
    answered = set(texts[: responses.prompt.max() + 1])
    assert len(found) == sum(text not in answered for text in texts[responses.prompt.max() + 1 : -1])
    assert found[0].token_ids[:2].tolist() == [3, 4]
    assert found[0].token_ids[-2:].tolist() == [5, 6]
    assert found[0].tokens == len(texts[responses.prompt.max() + 1].split()) + 4


def test_an_unknown_kind_is_refused_with_those_there_are(responses: Responses, texts: list[str], llm: Path) -> None:
    with pytest.raises(ValueError, match="'tarot' is none of counts, tokens"):
        fit_prompts(responses, texts, EDGES, llm, None, ["tarot"])


def test_reading_text_without_an_encoder_is_refused_by_name(responses: Responses, texts: list[str], llm: Path) -> None:
    with pytest.raises(ValueError, match="minilm"):
        fit_prompts(responses, texts, EDGES, llm, None, ["text"])


def test_the_same_seed_makes_the_same_predictor(responses: Responses, texts: list[str], llm: Path) -> None:
    recipes = {"tokens": replace(RECIPES["tokens"], epochs=1)}
    first, second, other = (
        fit_prompts(responses, texts, EDGES, llm, None, ["tokens"], seed, torch.device("cpu"), print, recipes)["tokens"]
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first.test, second.test)
    assert not np.array_equal(first.test, other.test)
