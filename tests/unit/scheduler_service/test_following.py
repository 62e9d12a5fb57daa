"""c that follows the load."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler_service.choice import PolicyChoice
from scheduler_service.following import CALM_KV_SHARE, FULL_KV_SHARE, MOST_RECOMPUTE_SHARE, preemption_limit
from scheduler_service.planner import PlannerLimits, make_plan
from scheduler_service.view import Capacity, EngineView
from tests.unit.scheduler_service.views import running, view_of

BLOCKS = 1000


def loaded(memory: float = 0.0, recompute: float = 0.0, *rows: dict[str, object]) -> EngineView:
    """KV memory and recompute that are so far from calm (0) to the worst that counts (1)."""
    used = CALM_KV_SHARE + memory * (FULL_KV_SHARE - CALM_KV_SHARE)
    free = BLOCKS - round(used * BLOCKS)
    share = recompute * MOST_RECOMPUTE_SHARE
    return view_of(*rows, capacity=Capacity(8, BLOCKS, 16), free_kv_blocks=free, recompute_share=share)


def c(view: EngineView, least: float | None = 0.2, most: float = 0.8) -> float:
    return preemption_limit(view, PolicyChoice(preemption_limit=most, least_preemption_limit=least))


@pytest.mark.parametrize(
    ("memory", "recompute", "expected"),
    [(-4, 0, 0.8), (0, 0, 0.8), (0.5, 0, 0.5), (1, 0, 0.2), (0, 0.25, 0.65), (0, 9, 0.2), (0.25, 0.5, 0.5)],
)  # fmt: skip
def test_c_falls_between_its_bounds_with_the_worse_of_memory_and_recompute(
    memory: float, recompute: float, expected: float
):
    assert c(loaded(memory, recompute)) == pytest.approx(expected)


@given(st.floats(-4, 1), st.floats(0, 10), st.floats(0, 1), st.floats(0, 1))
def test_c_never_leaves_its_bounds(memory: float, recompute: float, one: float, other: float):
    least, most = sorted((one, other))
    assert least - 1e-12 <= c(loaded(memory, recompute), least, most) <= most


def test_c_never_rises_with_strain_and_moves_in_steps_of_a_twentieth():
    for strained in (lambda x: loaded(memory=x), lambda x: loaded(recompute=x)):
        found = [c(strained(x)) for x in np.linspace(0, 1, 301)]
        assert found == sorted(found, reverse=True)
        assert len(set(found)) == 21


def test_c_stays_where_it_may_not_fall():
    assert c(loaded(1.0, 9.0), least=None) == 0.8
    assert c(loaded(1.0, 9.0), least=0.8) == 0.8


def test_memory_that_the_engine_did_not_tell_is_at_ease():
    assert c(view_of(recompute_share=0.0)) == 0.8


def test_a_plan_goes_by_the_c_that_it_tells():
    choice = PolicyChoice("trail", aging="none", preemption_limit=0.8, least_preemption_limit=0.2)
    rows = running(50, 60, total=100), running(10, 40, total=100)
    for strain, expected, first in ((0.0, 0.8, 2), (1.0, 0.2, 1)):
        plan = make_plan(loaded(strain, 0.0, *rows), choice, PlannerLimits())
        assert plan.preemption_limit == pytest.approx(expected)
        assert plan.handles[0] == first
