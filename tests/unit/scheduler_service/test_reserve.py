"""KV memory that a plan keeps free, and what it does to preemptions."""

from dataclasses import replace

import pytest

from scheduler_service import wire_policy
from scheduler_service.choice import PolicyChoice
from scheduler_service.planner import Plan, PlannerLimits, make_plan
from scheduler_service.settings import SchedulerSettings
from scheduler_service.view import Capacity, EngineView
from tests.unit.scheduler_service.views import running, view_of, waiting

MEMORY = Capacity(max_running_requests=8, kv_blocks=100, kv_block_tokens=16)


def plan(view: EngineView, share: float = 0.2) -> Plan:
    return make_plan(view, PolicyChoice(aging="none"), PlannerLimits(kv_reserve=share))


def busy(**more: object) -> EngineView:
    """Two long requests run, a short one waits; a mean answer has 160 tokens."""
    rows = running(50, 600), running(60, 500), waiting(5)
    known = {
        "capacity": MEMORY,
        "free_kv_blocks": 50,
        "mean_output_tokens": 160.0,
        "prefill_tokens_per_s": 100.0,
        "step": 1,
    }
    return view_of(*rows, **known | more)


@pytest.mark.parametrize(("share", "blocks"), [(0.2, 4), (0.4, 8), (0.0, 0)])
def test_each_that_runs_can_grow_by_a_share_of_a_mean_answer(share: float, blocks: int) -> None:
    assert plan(busy(), share).reserve_blocks == blocks


def test_nothing_is_kept_free_where_computing_again_costs_nothing() -> None:
    assert plan(busy(prefill_tokens_per_s=1e9)).reserve_blocks == 0
    assert plan(busy(found_again_share=1.0)).reserve_blocks == 0
    assert plan(busy(found_again_share=1.0, prefill_step_s=0.1)).reserve_blocks == 1, "it takes a step with prefill"


def test_nothing_is_kept_free_of_an_engine_that_runs_nobody_or_does_not_tell_its_memory() -> None:
    assert plan(view_of(waiting(5), capacity=MEMORY, free_kv_blocks=100)).reserve_blocks == 0
    assert plan(busy(capacity=Capacity(max_running_requests=8))).reserve_blocks == 0


def test_nobody_loses_its_place_for_memory_that_is_kept_free() -> None:
    view = busy(prefill_tokens_per_s=1000.0)
    reserve = plan(view).reserve_blocks
    assert reserve > 0
    assert not plan(replace(view, free_kv_blocks=reserve)).preemptions
    assert plan(replace(view, free_kv_blocks=0), share=0.0).preemptions, "with no memory at all it pays"


def test_it_reaches_the_engines_plan_and_comes_from_the_settings() -> None:
    made = plan(busy())
    assert wire_policy.plan(made, 1, 1000).reserve_kv_blocks == made.reserve_blocks == 4
    assert SchedulerSettings(kv_reserve=0.1).limits.kv_reserve == 0.1
