"""Responses are drawn from a real, tiny LLM through transformers; vLLM draws in tests/e2e."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from predictor_service.training.collect import (
    PROMPTS_FILE,
    TEST,
    TRAIN,
    Responses,
    Sampling,
    collect,
    sample_continuations,
)
from predictor_service.training.prompts import Prompt, PromptTable
from predictor_service.training.shards import ShardError
from tests.unit.training.tiny_llm import make_tiny_llm

SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_tokens=60, samples=3, held_out_samples=2)
PROMPTS = [Prompt(f"p{i}", "a", tuple(range(3, 6 + i % 3))) for i in range(8)]
SPLIT = np.array([TRAIN, TRAIN, TEST, TRAIN, TRAIN, TRAIN, TRAIN, TRAIN])
RESPONSES, SHARD = 7 * 3 + 2, 10


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llm(tmp_path_factory.mktemp("llm"))


def _collect(work: Path, llm: Path, **changes: Any) -> Responses:
    asked: dict[str, Any] = {"prompts": PROMPTS, "split": SPLIT, "sampling": SAMPLING} | changes
    return collect(
        work,
        llm,
        asked["prompts"],
        asked["split"],
        asked["sampling"],
        backend="transformers",
        shard_responses=SHARD,
        part=asked.get("part", (1, 1)),
        console=asked.get("console", Console(file=StringIO())),
        batch_sequences=4,
    )


def _same(found: Responses, expected: Responses) -> bool:
    return all(np.array_equal(getattr(found, name), value) for name, value in vars(expected).items())


@pytest.fixture(scope="module")
def collected(llm: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Responses]:
    work = tmp_path_factory.mktemp("work")
    return work, _collect(work, llm)


def test_lengths_count_generated_tokens_only(tmp_path: Path) -> None:
    rows = [[1, 2, 3, 10, 11], [4, 5, 12]]
    responses = Responses(
        prompt=np.array([0, 1]),
        split=np.array([TRAIN, TEST]),
        seed=np.array([0, 1000]),
        prompt_tokens=np.array([3, 2]),
        finished=np.array([True, False]),
        tokens=np.concatenate([np.array(row, dtype=np.int32) for row in rows]),
        offsets=np.array([0, 5, 8]),
    )
    assert responses.lengths.tolist() == [2, 1]
    assert responses.sequence(1).tolist() == [4, 5, 12]
    responses.save(tmp_path / "responses.npz")
    assert _same(Responses.load(tmp_path / "responses.npz"), responses)
    twice = Responses.joined([responses, responses])
    assert twice.lengths.tolist() == [2, 1, 2, 1]
    assert twice.sequence(3).tolist() == [4, 5, 12]


def test_every_prompt_is_answered_as_often_as_its_split_says(collected: tuple[Path, Responses]) -> None:
    work, responses = collected
    assert np.bincount(responses.prompt).tolist() == [3, 3, 2, 3, 3, 3, 3, 3]
    assert responses.split.tolist() == SPLIT[responses.prompt].tolist()
    table = PromptTable.load(work / PROMPTS_FILE)
    assert table.text == tuple(prompt.text for prompt in PROMPTS)
    assert len(list((work / "responses").glob("*.npz"))) == 3


def test_a_response_is_prompt_then_answer_up_to_its_end_or_the_cap(collected: tuple[Path, Responses]) -> None:
    _, responses = collected
    assert 0 < responses.finished.mean() < 1
    for row, prompt in enumerate(responses.prompt):
        ids = PROMPTS[prompt].token_ids
        answer = responses.sequence(row)[len(ids) :].tolist()
        assert responses.sequence(row)[: len(ids)].tolist() == list(ids)
        assert responses.prompt_tokens[row] == len(ids)
        # Token 0 ends a response, is counted, and nothing follows it.
        assert (answer.index(0) == len(answer) - 1) if responses.finished[row] else len(answer) == 60


def test_samples_differ_and_the_seed_decides_all(llm: Path, collected: tuple[Path, Responses], tmp_path: Path) -> None:
    work, responses = collected
    same = [responses.sequence(int(row)).tolist() for row in np.flatnonzero(responses.prompt == 0)]
    assert same[0] != same[1] != same[2]
    assert _same(_collect(tmp_path / "again", llm), responses)
    other = _collect(tmp_path / "other", llm, sampling=replace(SAMPLING, seed=1))
    assert not np.array_equal(other.tokens, responses.tokens)


def test_only_what_is_missing_or_half_written_is_drawn_again(llm: Path, tmp_path: Path) -> None:
    first = _collect(tmp_path, llm)
    paths = [tmp_path / "responses" / f"0000{i}.npz" for i in range(3)]
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes()[:-60])
    kept = paths[2].stat().st_mtime_ns
    with pytest.raises(ShardError, match=r"00001\.npz: half-written"):
        Responses.load(tmp_path)
    said = StringIO()
    assert _same(_collect(tmp_path, llm, console=Console(file=said, width=1000)), first)
    assert paths[2].stat().st_mtime_ns == kept
    assert f"{RESPONSES} responses in 3 shards, 1 of them there" in said.getvalue()


def test_processes_that_share_a_folder_draw_what_one_would(
    llm: Path, collected: tuple[Path, Responses], tmp_path: Path
) -> None:
    said = StringIO()
    first = _collect(tmp_path, llm, part=(1, 2), console=Console(file=said, width=1000))
    assert f"{SHARD + RESPONSES - 2 * SHARD} responses in 2 shards, 0 of them there" in said.getvalue()
    assert len(first.prompt) == RESPONSES - SHARD
    assert _same(_collect(tmp_path, llm, part=(2, 2)), collected[1])


def test_what_a_stopped_collection_left_can_be_used(llm: Path, tmp_path: Path) -> None:
    whole = _collect(tmp_path, llm)
    (tmp_path / "responses" / "00002.npz").unlink()
    assert np.array_equal(Responses.load(tmp_path).prompt, whole.prompt[: 2 * SHARD])
    for path in (tmp_path / "responses").glob("*.npz"):
        path.unlink()
    with pytest.raises(ShardError, match="no shard was finished"):
        Responses.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"prompts": [*PROMPTS[:-1], Prompt("other", "a", PROMPTS[-1].token_ids)]}, "other prompts"),
        ({"prompts": [*PROMPTS[:-1], replace(PROMPTS[-1], token_ids=(9, 9))]}, "other tokens"),
        ({"split": np.where(SPLIT == TEST, TRAIN, TEST)}, "other prompts"),
        ({"sampling": replace(SAMPLING, top_p=0.9)}, "other sampling"),
    ],
)
def test_a_folder_begun_with_other_inputs_is_refused_and_left_as_it_is(
    llm: Path, collected: tuple[Path, Responses], changes: dict[str, Any], named: str
) -> None:
    work, responses = collected
    table = (work / PROMPTS_FILE).read_text()
    with pytest.raises(ShardError, match=f"begun with {named}; use the same again or another folder"):
        _collect(work, llm, **changes)
    assert (work / PROMPTS_FILE).read_text() == table
    assert _same(Responses.load(work), responses)


def test_another_llm_is_noticed(collected: tuple[Path, Responses], tmp_path: Path) -> None:
    other = make_tiny_llm(tmp_path)
    weights = other / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ShardError, match="begun with other LLM"):
        _collect(collected[0], other)


def test_a_shard_from_another_collection_is_named(llm: Path, tmp_path: Path) -> None:
    _collect(tmp_path / "mine", llm)
    _collect(tmp_path / "theirs", llm, sampling=replace(SAMPLING, seed=5))
    foreign = tmp_path / "mine" / "responses" / "00001.npz"
    foreign.write_bytes((tmp_path / "theirs" / "responses" / "00001.npz").read_bytes())
    for use in (lambda: Responses.load(tmp_path / "mine"), lambda: _collect(tmp_path / "mine", llm)):
        with pytest.raises(ShardError, match=r"00001\.npz: made with other inputs or settings; move it away"):
            use()


def test_a_disk_too_small_is_refused_before_anything_is_drawn(llm: Path, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"needs at most 92\.0 PB, .* are free; make room or choose another folder"):
        _collect(tmp_path, llm, sampling=replace(SAMPLING, max_tokens=10**15))
    assert not list((tmp_path / "responses").glob("*.npz"))


@contextmanager
def _files_of_at_most(size: int) -> Iterator[None]:
    """The system refuses to write more, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_names_the_shard_and_what_is_there_goes_on(llm: Path, tmp_path: Path) -> None:
    whole = _collect(tmp_path, llm)
    shards = [tmp_path / "responses" / f"0000{i}.npz" for i in range(3)]
    shards[1].unlink()
    with (
        _files_of_at_most(os.path.getsize(shards[0]) // 2),
        pytest.raises(ShardError, match=r"00001\.npz: not written .*; the 2 shards beside it are whole and usable"),
    ):
        _collect(tmp_path, llm)
    assert sorted(path.name for path in (tmp_path / "responses").iterdir()) == [
        "00000.npz",
        "00002.npz",
        "origin.json",
    ]
    assert _same(_collect(tmp_path, llm), whole)


def test_a_stop_string_ends_a_response_where_it_is_complete(llm: Path, tmp_path: Path) -> None:
    responses = _collect(tmp_path, llm, sampling=replace(SAMPLING, max_tokens=200, stop=("a",)))
    a = 3 + ord("a") - 32
    ended = [responses.sequence(int(row))[-1] for row in np.flatnonzero(responses.finished)]
    assert a in ended
    for row in range(len(responses.prompt)):
        answer = responses.sequence(row)[responses.prompt_tokens[row] :].tolist()
        assert a not in answer[:-1]


def test_continuations_start_at_their_prefix_and_end_at_their_own_cap(
    llm: Path, collected: tuple[Path, Responses]
) -> None:
    prefixes = [[3, 4, 5], [6, 7, 8, 9]]
    drawn = sample_continuations(
        llm, prefixes, SAMPLING, 40, caps=[5, 50], backend="transformers", console=Console(file=StringIO())
    )
    assert drawn.lengths.shape == drawn.finished.shape == (2, 40)
    assert np.all(drawn.lengths[~drawn.finished] == np.repeat([5, 50], (~drawn.finished).sum(axis=1)))
    assert len(np.unique(drawn.lengths[1])) > 3
    assert drawn.finished[1].mean() > drawn.finished[0].mean()
