"""How many requests a full engine admits in one step."""

from dataclasses import replace

import pytest

from scheduler_service import wire_policy
from scheduler_service.choice import PolicyChoice
from scheduler_service.planner import Plan, PlannerLimits, make_plan
from scheduler_service.settings import SchedulerSettings
from scheduler_service.view import EngineView
from tests.unit.scheduler_service.views import full, running, view_of, waiting

KNOWN = {"mean_output_tokens": 200.0, "step_duration_s": 0.005, "prefill_step_s": 0.006, "step": 1}


def plan(view: EngineView, share: float = 1.0) -> Plan:
    return make_plan(view, PolicyChoice(aging="none"), PlannerLimits(gathering=share))


def busy(slots: int, **more: object) -> EngineView:
    return view_of(running(5, 10), waiting(10), capacity=full(slots), **KNOWN | more)


@pytest.mark.parametrize("slots", [16, 64, 256])
def test_it_is_the_number_that_loses_least(slots: int) -> None:
    """Beside the sum that it minimises, tried for every number: of prefill steps, and of places left free."""
    service_s, overhead_s = 200 * 0.005, 0.006 - 0.1 * 0.005
    lost = {m: slots * overhead_s / (m * service_s) + (m - 1) / (2 * slots) for m in range(1, slots)}
    assert plan(busy(slots)).admit_together == pytest.approx(min(lost, key=lost.__getitem__), abs=1)


def test_everybody_is_admitted_at_once_where_a_step_with_prefill_takes_no_longer() -> None:
    assert plan(busy(64, prefill_step_s=0.0)).admit_together == 1
    assert plan(busy(64, prefill_step_s=0.0005)).admit_together == 1, "which is what Pace says of nothing"
    assert plan(busy(64), share=0.0).admit_together == 1
    assert plan(busy(1)).admit_together == 1
    assert plan(replace(busy(64), capacity=full(0))).admit_together == 1


def test_a_quarter_of_the_places_is_left_free_at_most() -> None:
    assert plan(busy(64, prefill_step_s=10.0)).admit_together == 16


def test_whoever_is_worth_a_preemption_is_not_kept_waiting() -> None:
    long_ones = [running(5, 900, total=905) for _ in range(8)]
    view = view_of(*long_ones, *(waiting(5) for _ in range(8)), capacity=full(8), **KNOWN)
    assert plan(replace(view, prefill_step_s=0.2)).admit_together == 2
    assert plan(view).preemptions
    assert plan(view).admit_together == 1


def test_it_reaches_the_engines_plan_and_comes_from_the_settings() -> None:
    made = plan(busy(64))
    assert wire_policy.plan(made, 1, 1000).admit_together == made.admit_together == 7
    assert SchedulerSettings(gathering=0.5).limits.gathering == 0.5
