"""The recorder's own thread and files; streams feed it in tests/integration/test_recording.py."""

import resource
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY

from predictor_service.prompt import Prompt
from predictor_service.recorder import Recorder, RecorderSettings
from predictor_service.recording import Origin
from predictor_service.step import Declaration, Rows, Step
from predictor_service.training.prompts import TRAIN, Shares
from predictor_service.training.recordings import Outcome, Recordings, load_recordings
from predictor_service.training.shards import ShardError

DIM = 6
ORIGIN = Origin("e", 77, "tiny", (3, 5))


def _declared(*numbers: int) -> tuple[Declaration, ...]:
    return tuple(
        Declaration(n, f"r{n}", Prompt(np.array([n, 5, 7], dtype=np.uint32), 3), 0, max_tokens=64) for n in numbers
    )


def _vector(number: int, age: int) -> Any:
    return np.random.default_rng([number, age]).standard_normal(DIM)


def _rows(ages: dict[int, int], dtype: Any = np.float16) -> Rows:
    hidden = np.array([_vector(*row) for row in ages.items()]).reshape(-1, DIM).astype(dtype)
    return Rows(np.array(list(ages), dtype=np.uint64), np.array(list(ages.values()), dtype=np.int64), hidden)


def _step(
    number: int,
    ages: dict[int, int],
    declared: Sequence[int] = (),
    finished: Sequence[int] = (),
    prompts: Sequence[int] = (),
    dtype: Any = np.float16,
) -> Step:
    ended = np.array(finished, dtype=np.uint64)
    return Step(number, _declared(*declared), _rows(dict.fromkeys(prompts, 0), dtype), _rows(ages, dtype), ended)


def _outcomes(lengths: dict[int, int], reason: str = "stop", engine_id: str = "e") -> list[Outcome]:
    return [Outcome(engine_id, f"r{number}", length, reason) for number, length in lengths.items()]


def _ages(found: Recordings) -> list[tuple[int, int]]:
    """(first prompt token, age) of each row: the tests' prompts begin with the request's number."""
    responses, states = found.responses, found.states
    return [(int(responses.sequence(r)[0]), int(a)) for r, a in zip(states.response, states.age, strict=True)]


def _recorder(folder: Path, **settings: Any) -> Recorder:
    recorder = Recorder(RecorderSettings(folder, **settings))
    recorder.open(ORIGIN, ())
    return recorder


def _until(condition: Any) -> None:
    deadline_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def _idle(recorder: Recorder) -> None:
    """All that was queued has been handled."""
    _until(lambda: recorder._handled_bytes == recorder._queued_bytes)


def test_rows_come_back_with_their_requests_ages_and_lengths(tmp_path: Path) -> None:
    recorder = _recorder(tmp_path)
    recorder.step("e", _step(1, {}, declared=(1, 2), prompts=(1, 2)))
    recorder.step("e", _step(2, {1: 1, 2: 1}))
    recorder.step("e", _step(3, {2: 2}, finished=(1,)))
    recorder.close()
    found = load_recordings(tmp_path, [*_outcomes({1: 2}), *_outcomes({2: 9}, "length")])
    assert _ages(found) == [(1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]
    expected = [_vector(*row) for row in _ages(found)]
    assert np.array_equal(found.states.hidden, np.array(expected).astype(np.float16))
    assert found.states.remaining.tolist() == [2, 1, 9, 8, 7]
    assert found.states.finished.tolist() == [True, True, False, False, False]
    assert found.responses.lengths.tolist() == [2, 9]
    assert found.responses.sequence(0).tolist() == [1, 5, 7, -1, -1]
    assert found.layers == (3, 5)
    assert not found.left_out


def test_other_outcomes_change_labels_and_never_what_was_recorded(tmp_path: Path) -> None:
    recorder = _recorder(tmp_path)
    recorder.step("e", _step(1, {1: 1, 2: 1}, declared=(1, 2)))
    recorder.step("e", _step(2, {1: 2, 2: 2}))
    recorder.close()
    short, long = (load_recordings(tmp_path, _outcomes({1: n, 2: n + 1})) for n in (3, 500))
    assert np.array_equal(short.states.hidden, long.states.hidden)
    assert np.array_equal(short.states.age, long.states.age)
    assert not np.array_equal(short.states.remaining, long.states.remaining)


def test_requests_without_an_end_of_their_own_are_left_out_and_counted(tmp_path: Path) -> None:
    recorder = _recorder(tmp_path)
    recorder.step("e", _step(1, {n: 1 for n in range(1, 7)}, declared=range(1, 7)))
    recorder.open(Origin("e", 78, "tiny", (3, 5)), _declared(6))
    recorder.step("e", _step(1, {6: 1}))
    recorder.close()
    ends = [
        *_outcomes({1: 5, 4: 5, 6: 5}),
        *_outcomes({2: 5}, "abort"),
        *_outcomes({4: 6}),
        *_outcomes({5: 5}, "error"),
    ]
    found = load_recordings(tmp_path, [*ends, *_outcomes({3: 5}, engine_id="another")])
    assert _ages(found) == [(1, 1)]
    assert found.left_out == {"no outcome": 1, "cut short from outside": 2, "id in use more than once": 2}
    with pytest.raises(ShardError, match="no recorded request has a usable outcome"):
        load_recordings(tmp_path, [])


def test_rows_past_the_end_and_repeated_rows_are_not_used(tmp_path: Path) -> None:
    recorder = _recorder(tmp_path)
    recorder.step("e", _step(1, {1: 1}, declared=(1,), prompts=(1,)))
    recorder.step("e", _step(2, {1: 2}, prompts=(1,)))
    recorder.step("e", _step(3, {1: 3}))
    recorder.close()
    assert _ages(load_recordings(tmp_path, _outcomes({1: 3}))) == [(1, 0), (1, 1), (1, 2)]


def _with_caps(folder: Path, caps: dict[int, int]) -> None:
    """Requests by number with the caps that they carry; each is recorded at ages 1 and 20."""
    recorder = _recorder(folder)
    declared = [replace(one, max_tokens=caps[one.handle]) for one in _declared(*caps)]
    recorder.step("e", Step(1, tuple(declared), _rows({}), _rows(dict.fromkeys(caps, 1)), np.zeros(0, np.uint64)))
    recorder.step("e", _step(2, dict.fromkeys(caps, 20)))
    recorder.close()


ALL_LEARNT = Shares(validation=0.0, test=0.0)


def test_each_request_is_cut_at_the_cap_that_it_carried_and_learnt_from_under_one_that_enough_could_reach(
    tmp_path: Path,
) -> None:
    # One in twenty may go on to 900: too few to learn from, so it counts as cut where the others are.
    _with_caps(tmp_path, {n: 900 if n == 1 else 16 if n <= 9 else 512 for n in range(1, 21)})
    cut = {n: 16 for n in range(2, 6)} | {n: 512 for n in range(10, 15)}
    ended = {1: 700} | {n: n for n in range(6, 10)} | {n: 10 * n for n in range(15, 21)}
    found = load_recordings(tmp_path, [*_outcomes(ended), *_outcomes(cut, "length")], ALL_LEARNT)
    responses = found.responses
    assert found.max_tokens == 512
    assert not found.left_out
    by_number = {int(responses.sequence(r)[0]): r for r in range(20)}
    lengths = {n: int(responses.lengths[r]) for n, r in by_number.items()}
    assert lengths == ended | cut | {1: 512}
    assert {n for n, r in by_number.items() if not responses.finished[r]} == {1, *cut}
    assert (2, 20) not in _ages(found)
    assert (10, 20) in _ages(found)


def test_what_a_lower_cap_hides_is_never_judged(tmp_path: Path) -> None:
    _with_caps(tmp_path, {n: 100 if n % 2 else 30 for n in range(1, 201)})
    ends = _outcomes({n: 25 for n in range(1, 191)}) + _outcomes(
        {n: 100 if n % 2 else 30 for n in range(191, 201)}, "length"
    )
    found = load_recordings(tmp_path, ends, Shares(validation=0.2, test=0.2))
    number = np.array([int(found.responses.sequence(r)[0]) for r in range(len(found.responses.prompt))])
    held_out = found.responses.split != TRAIN
    assert found.max_tokens == 100
    assert (number[held_out] % 2 == 1).all()
    assert 20 < held_out.sum() < 60
    assert (number[~held_out] % 2 == 0).any(), "the length of one with a low cap is worth learning"
    assert set(found.left_out) == {"held out, with a lower cap"}
    assert found.left_out["held out, with a lower cap"] + len(number) == 200


def test_where_no_cap_was_carried_the_default_counts_and_a_cap_that_nobody_came_near_does_not(tmp_path: Path) -> None:
    for name, caps in (("none", {1: 0, 2: 0}), ("far", {1: 8000, 2: 8100})):
        _with_caps(tmp_path / name, caps)
    ends = _outcomes({1: 40, 2: 300})
    assert load_recordings(tmp_path / "none", ends, ALL_LEARNT).max_tokens == 1024
    assert load_recordings(tmp_path / "none", ends, ALL_LEARNT, max_tokens=512).max_tokens == 512
    assert load_recordings(tmp_path / "far", ends, ALL_LEARNT, max_tokens=512).max_tokens == 300
    cut = _outcomes({1: 80, 2: 90}, "length")
    assert load_recordings(tmp_path / "none", cut, ALL_LEARNT).max_tokens == 90, "whatever it was that cut them"


def test_one_request_in_so_many_is_recorded_whole_and_the_same_ones_every_time(tmp_path: Path) -> None:
    seen = []
    for part in ("a", "b"):
        recorder = _recorder(tmp_path / part, every=4)
        recorder.step("e", _step(1, dict.fromkeys(range(400), 1), declared=range(400)))
        recorder.step("e", _step(2, dict.fromkeys(range(400), 2)))
        recorder.close()
        seen.append(_ages(load_recordings(tmp_path / part, _outcomes(dict.fromkeys(range(400), 9)))))
    assert seen[0] == seen[1]
    assert 60 < len({number for number, _ in seen[0]}) < 140
    assert all((number, 2) in seen[0] for number, age in seen[0] if age == 1)


@pytest.mark.parametrize(("dtype", "received"), [(np.float16, "float16"), (np.float32, "float32")])
def test_rows_are_kept_in_float16_and_the_dtype_received_is_noted(tmp_path: Path, dtype: Any, received: str) -> None:
    recorder = _recorder(tmp_path)
    recorder.step("e", _step(1, {1: 1}, declared=(1,), dtype=dtype))
    recorder.close()
    (file,) = tmp_path.rglob("*.npz")
    with np.load(file) as stored:
        assert str(stored["received"]) == received
        assert stored["hidden"].dtype == np.float16


def test_bfloat16_is_known_by_its_empty_bits_and_outliers_stay_finite(tmp_path: Path) -> None:
    recorder = _recorder(tmp_path)
    hidden = np.array([[np.nan, 0, 0, 0, 0, 0], [1e30, -1e30, 1.5, 0, 2, 3]], dtype=np.float32)
    bits = (hidden.view(np.uint32) & 0xFFFF0000).view(np.float32)
    rows = Rows(np.array([1, 2], dtype=np.uint64), np.array([7, 1]), bits)
    recorder.step("e", Step(1, _declared(1, 2), _rows({}), rows, np.zeros(0, dtype=np.uint64)))
    recorder.close()
    (file,) = tmp_path.rglob("*.npz")
    with np.load(file) as stored:
        assert str(stored["received"]) == "bfloat16"
        assert stored["hidden"].tolist() == [[65504, -65504, 1.5, 0, 2, 3]]
        assert stored["age"].tolist() == [1]
        assert stored["request_id"].tolist() == ["r2"]


def test_a_file_is_written_when_it_is_full_or_old(tmp_path: Path) -> None:
    recorder = _recorder(tmp_path / "full", file_bytes=DIM * 2 * 10)
    for number in range(1, 26):
        recorder.step("e", _step(number, {1: number}, declared=(1,) if number == 1 else ()))
    _until(lambda: len(list((tmp_path / "full").rglob("*.npz"))) == 2)
    recorder.close()
    assert len(load_recordings(tmp_path / "full", _outcomes({1: 26})).states.age) == 25
    recorder = _recorder(tmp_path / "old", file_s=0.1)
    recorder.step("e", _step(1, {1: 1}, declared=(1,)))
    _until(lambda: list((tmp_path / "old").rglob("*.npz")))
    recorder.close()


def test_a_thread_too_far_behind_costs_rows_and_never_mixes_requests(tmp_path: Path) -> None:
    dropped = REGISTRY.get_sample_value("trail_predictor_record_dropped_rows_total") or 0.0
    recorder = _recorder(tmp_path, queue_bytes=2 * DIM * 2)
    recorder.step("e", _step(1, {}, declared=(1,)))
    _idle(recorder)
    with _busy(recorder):
        recorder.step("e", _step(2, {1: 1}))
        # Too much for the queue: with it goes the news that request 1 is over and its handle names request 2.
        lost = Declaration(1, "r2", Prompt(np.array([2], dtype=np.uint32), 1), 0)
        rows = _rows(dict.fromkeys(range(1, 30), 1))
        began_s = time.perf_counter()
        recorder.step("e", Step(3, (lost,), _rows({}), rows, np.array([1], dtype=np.uint64)))
        assert time.perf_counter() - began_s < 60, "it does not wait"
    recorder.step("e", _step(4, {1: 2}))
    _idle(recorder)
    recorder.step("e", _step(5, {3: 1}, declared=(3,)))
    recorder.close()
    found = load_recordings(tmp_path, _outcomes({1: 9, 2: 9, 3: 9}))
    assert _ages(found) == [(1, 1), (3, 1)]
    assert REGISTRY.get_sample_value("trail_predictor_record_dropped_rows_total") == dropped + 29


def test_a_gap_of_rows_alone_costs_nothing_but_these_rows(tmp_path: Path) -> None:
    recorder = _recorder(tmp_path, queue_bytes=2 * DIM * 2)
    recorder.step("e", _step(1, {}, declared=(1,)))
    _idle(recorder)
    with _busy(recorder):
        recorder.step("e", _step(2, {1: 1}))
        recorder.step("e", _step(3, {1: 2, 5: 2}))
    recorder.step("e", _step(4, {1: 3}))
    recorder.close()
    assert _ages(load_recordings(tmp_path, _outcomes({1: 9}))) == [(1, 1), (1, 3)]


class _busy:
    """The recorder's thread has something else to do: it waits in a declaration."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder, self._go = recorder, threading.Event()

    def __enter__(self) -> None:
        go = self._go

        class Slow(tuple[Declaration, ...]):
            __slots__ = ()

            def __iter__(self) -> Any:
                if threading.current_thread().name == "recorder":
                    go.wait(20)
                return iter(())

        nothing = _rows({})
        self._recorder.step("e", Step(0, Slow(), nothing, nothing, np.zeros(0, dtype=np.uint64)))

    def __exit__(self, *_: object) -> None:
        self._go.set()
        _idle(self._recorder)


def test_at_its_limit_recording_stops_with_one_line_and_what_is_there_is_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = _recorder(tmp_path, file_bytes=100, max_bytes=8000)
    for number in range(1, 200):
        recorder.step("e", _step(number, {1: number}, declared=(1,) if number == 1 else ()))
    _until(lambda: not recorder.active)
    assert REGISTRY.get_sample_value("trail_predictor_recording") == 0
    recorder.step("e", _step(200, {1: 200}))
    recorder.close()
    written = sum(path.stat().st_size for path in tmp_path.rglob("*.npz"))
    assert 0 < written < 8000 + 4000
    assert len(load_recordings(tmp_path, _outcomes({1: 1000})).states.age) > 0
    again = _recorder(tmp_path, file_bytes=100, max_bytes=8000)
    again.step("e", _step(1, {1: 1}, declared=(1,)))
    again.close()
    assert not again.active
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.npz")) == written
    assert capsys.readouterr().out.count("recording stopped") == 2


def test_a_full_disk_stops_recording_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    recorder = _recorder(tmp_path)
    recorder.step("e", _step(1, {1: 1}, declared=(1,)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        recorder.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not recorder.active
    assert not list(tmp_path.rglob("*.npz*"))
    assert "File too large" in capsys.readouterr().out


def test_engines_that_come_and_go_leave_their_rows_in_files_and_nothing_in_memory(tmp_path: Path) -> None:
    recorder = Recorder(RecorderSettings(tmp_path))
    engines = [f"e{number}" for number in range(40)]
    for engine_id in engines:
        recorder.open(Origin(engine_id, 1, "tiny", (3, 5)), _declared(1))
        recorder.step(engine_id, _step(1, {1: 1}))
        if engine_id != engines[0]:
            recorder.end(engine_id)
    recorder.end("never seen")
    recorder.step(engines[1], _step(2, {1: 2}))
    recorder.step(engines[0], _step(2, {1: 2}))
    _until(lambda: recorder._queue.empty() and len(recorder._recordings) == 1)
    _until(lambda: len(list(tmp_path.rglob("*.npz"))) == len(engines) - 1)
    recorder.open(Origin(engines[5], 1, "tiny", (3, 5)), _declared(1))
    recorder.step(engines[5], _step(1, {1: 2}))
    recorder.close()
    outcomes = [outcome for engine_id in engines for outcome in _outcomes({1: 9}, engine_id=engine_id)]
    found = load_recordings(tmp_path, outcomes)
    assert len(found.responses.prompt) == len(engines)
    assert sorted(found.states.age.tolist()) == [1] * len(engines) + [2, 2]


def test_an_engine_named_like_the_folder_above_stays_inside(tmp_path: Path) -> None:
    recorder = Recorder(RecorderSettings(tmp_path / "in"))
    recorder.open(Origin("..", 1, "tiny", (3,)), _declared(1))
    recorder.step("..", _step(1, {1: 1}))
    recorder.close()
    assert [path.parent.parent for path in tmp_path.rglob("*.npz")] == [tmp_path / "in"]


def test_recordings_of_other_layers_or_half_written_ones_are_refused_by_name(tmp_path: Path) -> None:
    for layers in ((3,), (4,)):
        recorder = Recorder(RecorderSettings(tmp_path))
        recorder.open(Origin("e", layers[0], "tiny", layers), _declared(1))
        recorder.step("e", _step(1, {1: 1}))
        recorder.close()
    with pytest.raises(ShardError, match=r"2 sets of layers \[\(3,\), \(4,\)\]"):
        load_recordings(tmp_path, _outcomes({1: 5}))
    first = min(tmp_path.rglob("*.npz"))
    first.write_bytes(first.read_bytes()[:-50])
    with pytest.raises(ShardError, match=f"{first.name}: half-written"):
        load_recordings(tmp_path, _outcomes({1: 5}))
