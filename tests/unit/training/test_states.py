"""A tiny random Llama stands for the LLM: what is read must be the hidden state of the right token and layer."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from predictor_service.training import states as module
from predictor_service.training.collect import TRAIN, Responses
from predictor_service.training.shards import ShardError
from predictor_service.training.states import States, read_states, store_states

LAYERS = 4
SIZES, PROMPT_TOKENS = [9, 4, 7, 30, 12], np.array([3, 2, 5, 6, 1])
EVERYTHING = np.arange(5)


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    shape = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=LAYERS, num_attention_heads=4
    )
    folder = tmp_path_factory.mktemp("llm")
    transformers.LlamaForCausalLM(shape).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def responses() -> Responses:
    tokens = np.random.default_rng(0).integers(0, 64, sum(SIZES)).astype(np.int32)
    return Responses(
        prompt=np.arange(5),
        split=np.full(5, TRAIN),
        seed=np.zeros(5, dtype=np.int64),
        prompt_tokens=PROMPT_TOKENS,
        finished=np.array([True, False, True, True, True]),
        tokens=tokens,
        offsets=np.cumsum([0, *SIZES]),
    )


def _alone(llm: Path, tokens: Any) -> list[Any]:
    """transformers' own hidden states of one sequence, one array [tokens, hidden] a layer."""
    model = transformers.AutoModelForCausalLM.from_pretrained(llm, dtype=torch.float32)
    with torch.inference_mode():
        found = model(torch.from_numpy(tokens).long()[None], output_hidden_states=True).hidden_states
    return [layer[0].numpy() for layer in found]


@pytest.mark.parametrize("layers", [(1, 3), (3, 1), (0,), (LAYERS,), (2, LAYERS), "all"])
def test_age_a_is_the_state_of_the_ath_generated_token_and_age_0_of_the_last_prompt_token(
    llm: Path, responses: Responses, layers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module._BATCH_TOKENS, "cpu", 24)  # several batches, and one response too long for any
    rows = np.array([3, 0, 2, 4])
    states = read_states(llm, responses, rows, layers, None, seed=0, prompt_mean=True)
    expected = [(r, a) for r in rows for a in range(SIZES[r] - PROMPT_TOKENS[r])]
    assert list(zip(states.response, states.age, strict=True)) == expected
    assert states.remaining.tolist() == [SIZES[r] - PROMPT_TOKENS[r] - a for r, a in expected]
    wanted = range(LAYERS + 1) if layers == "all" else layers
    truth = {r: _alone(llm, responses.sequence(r)) for r in rows}
    for row, (r, age) in zip(states.hidden, expected, strict=True):
        alone = np.concatenate([truth[r][layer][PROMPT_TOKENS[r] - 1 + age] for layer in wanted])
        assert row.astype(np.float32) == pytest.approx(alone, rel=2e-3, abs=1e-3)
    assert states.prompt_mean is not None
    for mean, r in zip(states.prompt_mean, rows, strict=True):
        alone = np.concatenate([truth[r][layer][: PROMPT_TOKENS[r]].mean(axis=0) for layer in wanted])
        assert mean.astype(np.float32) == pytest.approx(alone, rel=2e-3, abs=1e-3)


def test_the_ages_kept_of_a_response_depend_on_nothing_but_seed_and_index(llm: Path, responses: Responses) -> None:
    both = read_states(llm, responses, np.array([0, 3]), (2,), 4, seed=1)
    one = read_states(llm, responses, np.array([3]), (2,), 4, seed=1)
    other = read_states(llm, responses, np.array([3]), (2,), 4, seed=2)
    assert np.bincount(both.response)[[0, 3]].tolist() == [4, 4]
    assert both.age[both.response == 3].tolist() == one.age.tolist()
    assert one.age.tolist() != other.age.tolist()
    long, same_length = (module._ages(row, 1000, 8, seed=1) for row in (0, 1))
    assert long.tolist() != same_length.tolist()


def test_the_length_reaches_the_labels_only(llm: Path, responses: Responses) -> None:
    longer = replace(responses, finished=~responses.finished)
    kept, changed = (read_states(llm, each, EVERYTHING, (2,), None, seed=0) for each in (responses, longer))
    assert np.array_equal(kept.hidden, changed.hidden)
    assert np.array_equal(kept.finished, ~changed.finished)


@pytest.mark.parametrize("layer", [-1, LAYERS + 1])
def test_a_layer_that_the_llm_lacks_is_named(llm: Path, responses: Responses, layer: int) -> None:
    with pytest.raises(ValueError, match=rf"hidden states 0 to {LAYERS}, not \[{layer}\]"):
        read_states(llm, responses, EVERYTHING, (1, layer), None, seed=0)


def test_a_folder_without_a_model_is_named(tmp_path: Path, responses: Responses) -> None:
    with pytest.raises(ValueError, match=f"{tmp_path}: no config.json"):
        read_states(tmp_path, responses, EVERYTHING, (1,), None, seed=0)


def test_states_in_shards_are_those_read_at_once_and_a_broken_shard_is_read_again(
    llm: Path, responses: Responses, tmp_path: Path
) -> None:
    asked: Any = (llm, responses, EVERYTHING, (1, 2), 3, 7)
    read: list[int] = []
    store_states(tmp_path, *asked, prompt_mean=True, shard_responses=2, progress=read.append)
    assert sum(read) == 5
    whole = read_states(*asked, prompt_mean=True)
    _same(States.load(tmp_path), whole)
    broken = tmp_path / "00001.npz"
    broken.write_bytes(broken.read_bytes()[:-100])
    with pytest.raises(ShardError, match=r"00001\.npz: half-written"):
        States.load(tmp_path)
    store_states(tmp_path, *asked, prompt_mean=True, shard_responses=2, progress=read.append)
    assert sum(read) == 7
    _same(States.load(tmp_path), whole)
    with pytest.raises(ShardError, match="other seed"):
        store_states(tmp_path, *asked[:-1], 8, prompt_mean=True, shard_responses=2)


def test_states_survive_the_disk(llm: Path, responses: Responses, tmp_path: Path) -> None:
    states = read_states(llm, responses, EVERYTHING, (1,), None, seed=0)
    states.save(tmp_path / "states.npz")
    _same(States.load(tmp_path / "states.npz"), states)


def _same(found: States, expected: States) -> None:
    assert found.arrays().keys() == expected.arrays().keys()
    for name, value in expected.arrays().items():
        # Batches of other shapes round differently.
        assert found.arrays()[name].astype(np.float32) == pytest.approx(value.astype(np.float32), rel=2e-3, abs=1e-3)
