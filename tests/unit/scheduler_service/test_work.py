"""What service is counted as: a token takes one place for a step, a prefill takes all of them."""

import numpy as np
import pytest

from scheduler_service.choice import PolicyChoice
from scheduler_service.messages import Declaration, Delta, Epoch, Outcome, Running
from scheduler_service.pairing import PAIRINGS
from scheduler_service.planner import PlannerLimits, make_plan
from scheduler_service.state import Assumptions, EngineState
from scheduler_service.view import Capacity, EngineView
from scheduler_service.work import Unit, Work, expected_work
from tests.unit.scheduler_service.views import full, running, view_of, waiting

PLACES, STEP_S, RATE = 8, 0.01, 10_000.0


def view(*rows: dict[str, object], places: int = PLACES, **engine: object) -> EngineView:
    pace = {"step_duration_s": STEP_S, "prefill_tokens_per_s": RATE} | engine
    return view_of(*rows, capacity=full(places), **pace)


def work_of(of: EngineView, unit: Unit = "seconds") -> Work:
    return expected_work(of, PAIRINGS["per_step"].lengths(of), unit)


def test_a_prompt_takes_every_place_and_a_token_one():
    work = work_of(view(waiting(50, prompt_tokens=1000)))
    assert work.remaining.tolist() == work.total.tolist() == [pytest.approx(PLACES * 0.1 + 50 * STEP_S)]
    assert work.duration_s.tolist() == [pytest.approx(0.1 + 50 * STEP_S)]


def test_an_engine_that_told_no_places_has_one():
    work = work_of(view(waiting(50, prompt_tokens=1000), places=0))
    assert work.remaining.tolist() == work.duration_s.tolist() == [pytest.approx(0.1 + 50 * STEP_S)]


def test_what_is_computed_is_not_to_be_done_and_was_attained():
    work = work_of(view(running(1, 50, prompt_tokens=1000, computed_tokens=1000)))
    assert work.remaining.tolist() == [pytest.approx(50 * STEP_S)]
    assert work.attained.tolist() == [pytest.approx(PLACES * 0.1 + STEP_S)]
    assert work.recompute.tolist() == [pytest.approx(0.1, rel=0.01)]


def test_tokens_count_output_alone_and_the_duration_stays_in_seconds():
    work = work_of(view(waiting(50, prompt_tokens=1000)), "tokens")
    assert (work.remaining.tolist(), work.unit_s) == ([50.0], STEP_S)
    assert work.duration_s.tolist() == [pytest.approx(0.1 + 50 * STEP_S)]


@pytest.mark.parametrize(("places", "first"), [(PLACES, 2), (0, 1)])
def test_a_long_prompt_goes_behind_a_longer_answer_only_where_others_wait_for_it(places: int, first: int):
    of = view(waiting(10, prompt_tokens=2000), waiting(60, prompt_tokens=10), places=places)
    plan = make_plan(of, PolicyChoice(aging="none"), PlannerLimits())
    assert plan.handles.tolist()[0] == first


def test_a_deadline_is_at_risk_by_the_clock_and_not_by_the_places():
    of = view(waiting(10, prompt_tokens=1000, deadline_s=5000.5), waiting(5), now_s=5000.0)
    plan = make_plan(of, PolicyChoice(deadline_slack_s=1.0), PlannerLimits())
    assert plan.handles.tolist() == [1, 2]


@pytest.mark.parametrize("places", [1, PLACES])
def test_the_mean_service_is_counted_as_the_ranks_are(places: int):
    state = EngineState(Capacity(places, step_token_budget=4096), Assumptions(STEP_S, RATE, 128.0))
    assert state.view().mean_service_s == pytest.approx(128 * STEP_S)
    batch = Running(np.array([1], np.uint64), np.array([0]), np.array([0]))
    state.apply(Delta(Epoch(1, 0), 1, arrived=(Declaration(1, "a", 1000),), running=batch))
    state.apply(Delta(Epoch(1, 0), 2, finished=(Outcome(1, "stop", 40),)))
    assert state.view().mean_service_s == pytest.approx(places * 0.1 + 40 * STEP_S)
