"""Who goes ahead whatever its rank. Tokens of half a second: what is left of a request is exact."""

import numpy as np
import pytest

from scheduler_service.choice import PolicyChoice
from scheduler_service.pairing import PAIRINGS
from scheduler_service.planner import Plan, PlannerLimits, make_plan
from scheduler_service.promises import deadlines_at_risk
from scheduler_service.view import EngineView
from scheduler_service.work import expected_work
from tests.unit.scheduler_service.views import PROMPT_TOKENS, full, running, view_of, waiting

NOW_S, STEP_S = 5000.0, 0.5
PREFILL_S = 0.01
LEFT_TOKENS, LEFT_S = 40, 20.0 + PREFILL_S


def view(*rows: dict[str, object], **engine: object) -> EngineView:
    return view_of(*rows, now_s=NOW_S, step_duration_s=STEP_S, prefill_tokens_per_s=PROMPT_TOKENS / PREFILL_S, **engine)


def due(spare_s: float, **more: object) -> dict[str, object]:
    """A waiting request whose deadline leaves so much beyond what it needs."""
    return waiting(LEFT_TOKENS, deadline_s=NOW_S + LEFT_S + spare_s, **more)


def plan(of: EngineView, slack_s: float, **choice: object) -> Plan:
    chosen = {"policy": "srpt", "aging": "none", "preemption_margin": 0.0, "preemption_ratio": 1.0} | choice
    return make_plan(of, PolicyChoice(**chosen, deadline_slack_s=slack_s), PlannerLimits(unit="tokens"))


def order(of: EngineView, slack_s: float = 2.0) -> list[int]:
    return plan(of, slack_s).handles.tolist()


def test_a_deadline_at_risk_goes_ahead_of_shorter_requests():
    assert order(view(waiting(3), due(1.0), waiting(5))) == [2, 1, 3]


@pytest.mark.parametrize(
    ("spare_s", "at_risk"),
    [(-NOW_S, False), (-0.01, False), (0.0, True), (1.0, True), (1.99, True), (2.0, False), (900.0, False)],
)
def test_only_those_count_that_can_just_be_met(spare_s: float, at_risk: bool):
    of = view(due(spare_s))
    work = expected_work(of, PAIRINGS["per_step"].lengths(of), "tokens")
    assert deadlines_at_risk(of, work, 2.0).tolist() == [at_risk]
    assert order(view(waiting(3), due(spare_s))) == ([2, 1] if at_risk else [1, 2])


def test_a_request_without_a_deadline_is_never_at_risk():
    assert order(view(waiting(3), waiting(LEFT_TOKENS)), slack_s=1e9) == [1, 2]


def test_a_slack_of_nothing_counts_no_deadline():
    assert order(view(waiting(3), due(0.0)), slack_s=0.0) == [1, 2]


def test_of_those_at_risk_the_earliest_deadline_is_first():
    told = ((60, 1.0), (20, 1.9), (40, 0.0))
    rows = [waiting(tokens, deadline_s=NOW_S + PREFILL_S + tokens * STEP_S + spare_s) for tokens, spare_s in told]
    assert order(view(*rows)) == [2, 3, 1]


def victims(of: EngineView, slack_s: float) -> list[int]:
    return [each.victim for each in plan(of, slack_s, max_preemptions=9).preemptions]


def test_a_running_request_at_risk_is_no_victim():
    of = view(running(1, LEFT_TOKENS, deadline_s=NOW_S + LEFT_S + 1.0), waiting(2), capacity=full(1))
    assert victims(of, slack_s=0.0) == [1]
    assert victims(of, slack_s=2.0) == []


def test_the_others_stay_victims_for_one_at_risk_that_is_shorter():
    rows = [running(1, 500), running(1, LEFT_TOKENS, deadline_s=NOW_S + LEFT_S + 1.0), due(1.0)]
    assert victims(view(*rows, capacity=full(2)), slack_s=2.0) == [1]


def overtaken(*rows: dict[str, object], before_s: float) -> EngineView:
    return view(*rows, overtaken_before_s=before_s)


def test_overtaken_ones_go_ahead_by_arrival_and_not_by_length():
    told = ((900, 20.0), (5, 30.0), (800, 10.0), (1, 31.0))
    rows = [waiting(tokens, arrival_s=arrival_s) for tokens, arrival_s in told]
    assert order(overtaken(*rows, before_s=30.0)) == [3, 1, 2, 4]
    assert order(overtaken(*rows, before_s=-np.inf)) == [4, 2, 3, 1]


def test_overtaken_ones_go_before_deadlines():
    assert order(overtaken(due(1.0, arrival_s=40.0), waiting(900, arrival_s=20.0), before_s=30.0)) == [2, 1]


def test_one_that_runs_has_been_let_ahead_already():
    rows = [running(1, 900, arrival_s=10.0), waiting(5, arrival_s=40.0)]
    assert order(overtaken(*rows, before_s=30.0)) == [2, 1]
