"""Deltas and predictions into a view."""

from dataclasses import replace

import numpy as np
import pytest

from scheduler_service.messages import (
    Declaration,
    Delta,
    Epoch,
    Outcome,
    Predictions,
    PublishedMessage,
    Running,
    Snapshot,
)
from scheduler_service.state import EngineState
from scheduler_service.view import Capacity, EngineView

EPOCH = Epoch(7, 1)


def request(handle: int, **more: object) -> Declaration:
    return Declaration(handle, f"r{handle}", prompt_tokens=10, arrival_s=float(handle), **more)


def batch(**ages: int) -> Running:
    """Running requests as h1=5: handle 1 at age 5."""
    handles = [int(name[1:]) for name in ages]
    tokens = np.array(list(ages.values()), dtype=np.int64)
    return Running(np.array(handles, dtype=np.uint64), tokens, tokens + 9)


def delta(step: int, **more: object) -> Delta:
    return Delta(EPOCH, step, **more)


def predictions(age: int, mean: float, *, stage: int = 3, r0: float = 0.0, r1: float = 0.0) -> Predictions:
    one = np.ones(1)
    return Predictions(
        np.array([age]), np.array([stage]), one * mean, one * mean, one * mean / 2, one * mean * 2, one * r0, one * r1
    )


def message(handle: int, rows: Predictions, number: int = 1) -> PublishedMessage:
    return PublishedMessage(EPOCH, number, np.array([handle], dtype=np.uint64), rows)


def row(view: EngineView, handle: int) -> dict[str, float]:
    (index,) = np.flatnonzero(view.handle == handle)
    return {name: getattr(view, name)[index].item() for name in ("age", "mean", "r0", "r1", "running")} | {
        "preemptions": view.preemptions[index].item(),
        "computed": view.computed_tokens[index].item(),
        "at": view.predicted_at_age[index].item(),
    }


@pytest.fixture
def state() -> EngineState:
    state = EngineState(Capacity(8, 100, 16, 512))
    state.apply(delta(1, arrived=(request(1), request(2), request(3)), running=batch(h1=4, h2=2)))
    return state


def test_a_repeated_or_old_step_changes_nothing(state: EngineState):
    before = row(state.view(), 1)
    for step in (1, 0):
        applied = state.apply(delta(step, running=batch(h1=99), preempted=(2,), finished=(Outcome(1, "stop", 9),)))
        assert applied.stale
    assert row(state.view(), 1) == before
    assert len(state.view()) == 3


def test_running_requests_are_those_of_the_newest_batch(state: EngineState):
    assert state.apply(delta(2, running=batch(h2=3, h3=1))).progressed
    view = state.view()
    assert [row(view, handle)["running"] for handle in (1, 2, 3)] == [False, True, True]
    assert not state.apply(delta(3, running=batch(h2=3, h3=1))).progressed
    assert state.apply(delta(4)).progressed is False
    assert row(state.view(), 2)["running"]


def test_a_preempted_request_waits_without_kv_and_its_preemption_counts(state: EngineState):
    state.apply(delta(2, preempted=(1,), running=batch(h2=3)))
    assert row(state.view(), 1) | {"mean": 0} == {
        "age": 4, "mean": 0, "r0": 0, "r1": 0, "running": False, "preemptions": 1, "computed": 0, "at": -1,
    }  # fmt: skip


def test_unknown_handles_are_counted_and_ignored(state: EngineState):
    applied = state.apply(delta(2, running=batch(h1=5, h77=5), preempted=(78,), finished=(Outcome(79, "stop", 1),)))
    assert applied.unknown_handles == 3
    assert sorted(state.view().handle.tolist()) == [1, 2, 3]


def test_finished_requests_leave_and_those_that_stay_keep_their_rows(state: EngineState):
    state.apply_predictions(message(3, predictions(0, 33.0, stage=1, r0=33.0)))
    applied = state.apply(delta(2, finished=(Outcome(1, "stop", 40), Outcome(2, "abort", 2))))
    assert [each.request.request_id for each in applied.finished] == ["r1", "r2"]
    assert row(state.view(), 3)["mean"] == 33.0
    # An aborted request says nothing about how long outputs are.
    assert state.view().mean_output_tokens == 40.0


def test_outcomes_carry_what_was_predicted(state: EngineState):
    state.apply_predictions(message(1, predictions(4, 12.0, r1=20.0)))
    (finished,) = state.apply(delta(2, finished=(Outcome(1, "stop", 17),))).finished
    assert (finished.r1, finished.mean, finished.predicted_at_age) == (20.0, 12.0, 4)


def test_a_prediction_may_come_before_its_request(state: EngineState):
    state.apply_predictions(message(9, predictions(0, 50.0, stage=1, r0=50.0)))
    state.apply_predictions(message(9, predictions(3, 40.0, r1=44.0)))
    assert not state.apply(delta(2, arrived=(request(9),))).unpredicted_arrivals
    assert row(state.view(), 9) | {"running": 0} == {
        "age": 0, "mean": 40.0, "r0": 50.0, "r1": 44.0, "running": 0, "preemptions": 0, "computed": 0, "at": 3,
    }  # fmt: skip
    assert state.apply(delta(3, arrived=(request(10),))).unpredicted_arrivals


def test_an_older_prediction_never_replaces_a_newer_one(state: EngineState):
    state.apply_predictions(message(1, predictions(4, 40.0, r1=50.0)))
    state.apply_predictions(message(1, predictions(3, 99.0, r1=60.0)))
    assert (row(state.view(), 1)["mean"], row(state.view(), 1)["r1"]) == (40.0, 50.0)


def test_a_total_put_by_someone_else_replaces_r0_but_never_r1(state: EngineState):
    state.apply_predictions(message(1, predictions(0, 50.0, stage=1, r0=50.0)))
    state.apply_predictions(message(1, predictions(0, 80.0, stage=1, r0=80.0)))
    assert (row(state.view(), 1)["r0"], row(state.view(), 1)["mean"]) == (80.0, 80.0)
    state.apply_predictions(message(1, predictions(1, 60.0, r1=61.0)))
    state.apply_predictions(message(1, predictions(2, 90.0, r1=92.0)))
    assert row(state.view(), 1)["r1"] == 61.0


def test_rows_that_are_no_lengths_are_left_out(state: EngineState):
    for bad in (float("nan"), float("inf"), -1.0):
        assert state.apply_predictions(message(1, predictions(4, bad))) == 0
    assert row(state.view(), 1)["at"] == -1


def test_stored_records_go_to_the_request_of_that_id_even_if_it_comes_later(state: EngineState):
    state.apply_snapshot(Snapshot(("r2",), predictions(2, 21.0, r0=8.0, r1=9.0)))
    state.apply_snapshot(Snapshot(("r12",), predictions(0, 12.0, stage=1, r0=12.0)))
    state.apply(delta(2, arrived=(request(12),)))
    assert row(state.view(), 2)["mean"] == 21.0
    assert row(state.view(), 12)["r0"] == 12.0


def test_what_comes_late_for_a_finished_request_does_not_reach_another_of_the_same_name(state: EngineState):
    state.apply(delta(2, finished=(Outcome(1, "stop", 400),)))
    state.apply_predictions(message(1, predictions(390, 10.0, r1=400.0)))
    state.apply(delta(3, arrived=(request(1),)))
    assert row(state.view(), 1)["at"] == -1


def test_what_is_taken_from_a_view_does_not_change_with_the_state(state: EngineState):
    taken = state.view().take(np.arange(2))
    state.apply(delta(2, running=batch(h1=50)))
    assert row(taken, 1)["age"] == 4
    assert row(state.view(), 1)["age"] == 50


def test_hundreds_of_requests_come_and_go_without_mixing(state: EngineState):
    state.apply(delta(2, arrived=tuple(request(handle) for handle in range(10, 310))))
    state.apply(delta(3, finished=tuple(Outcome(handle, "stop", 5) for handle in range(10, 310, 2))))
    view = state.view()
    assert sorted(view.handle.tolist()) == [1, 2, 3, *range(11, 310, 2)]
    assert (view.arrival_s == view.handle).all()


def test_step_time_and_prefill_rate_are_measured(state: EngineState):
    for step in range(2, 60):
        state.apply(delta(step, step_duration_s=0.1, running=batch(h1=step + 4)))
    assert state.view().step_duration_s == pytest.approx(0.1)
    joined = batch(h1=64, h2=0)
    state.apply(delta(60, step_duration_s=0.1, running=joined))
    prefilled = replace(joined, computed_tokens=joined.computed_tokens + np.array([1, 400]))
    state.apply(delta(61, step_duration_s=0.3, running=prefilled))
    for step in (62, 63):
        decoded = replace(joined, computed_tokens=prefilled.computed_tokens + step - 61)
        state.apply(delta(step, step_duration_s=0.1, running=decoded))
    assert state.view().prefill_tokens_per_s == pytest.approx(2000, rel=0.1)


def test_of_merged_steps_nobody_knows_what_was_found_in_the_cache(state: EngineState):
    for step in range(2, 20):
        state.apply(delta(step, arrived=(request(100 + step),)))
    state.apply(delta(20, running=batch(h1=1001), engine_steps=1))
    state.apply(delta(21, preempted=(1,), running=batch(), engine_steps=1))
    # The engine's own number may lag behind that of the message.
    state.apply(delta(22, step_duration_s=0.1, running=batch(h1=1003), engine_steps=3))
    assert state.view().found_again_share == 0


def test_prefill_of_a_request_that_ended_with_its_first_token_makes_no_step_a_decode(state: EngineState):
    for step in range(2, 40):
        state.apply(delta(step, step_duration_s=0.1, running=batch(h1=step + 4)))
    entered = replace(batch(h1=44, h2=0), computed_tokens=np.array([53, 0]))
    state.apply(delta(40, step_duration_s=0.1, running=entered))
    state.apply(delta(41, step_duration_s=9.0, running=batch(h1=45), finished=(Outcome(2, "length", 1),)))
    for step in (42, 43):
        state.apply(delta(step, step_duration_s=0.1, running=batch(h1=step + 4)))
    assert state.view().step_duration_s == pytest.approx(0.1)


def test_a_step_after_an_idle_time_is_not_set_against_the_one_before_it(state: EngineState):
    for step in range(2, 40):
        state.apply(delta(step, step_duration_s=0.1, running=batch(h1=step + 4)))
    state.apply(delta(40, step_duration_s=7.0, running=batch(h1=44)))
    state.apply(delta(41, step_duration_s=0.0, running=batch(h1=45)))
    state.apply(delta(42, step_duration_s=0.1, running=batch(h1=46)))
    assert state.view().step_duration_s == pytest.approx(0.1)


def test_what_a_request_resumes_with_was_not_lost_and_is_not_prefill(state: EngineState):
    prefill_before = state.view().prefill_tokens_per_s
    state.apply(delta(2, step_duration_s=0.1, running=batch(h1=1001)))
    state.apply(delta(3, step_duration_s=0.1, preempted=(1,), running=batch()))
    assert state.view().found_again_share == 0
    back = replace(batch(h1=1001), computed_tokens=np.array([800]))
    state.apply(delta(4, step_duration_s=0.1, running=back))
    view = state.view()
    assert view.found_again_share == pytest.approx(0.4, abs=0.05)
    assert view.recompute_share > 0
    assert view.prefill_tokens_per_s == prefill_before
