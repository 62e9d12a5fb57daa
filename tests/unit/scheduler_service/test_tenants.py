"""What tenants were served lately."""

import math

import numpy as np
import pytest

from scheduler_service.choice import PolicyChoice
from scheduler_service.messages import Declaration, Delta, Epoch, Running
from scheduler_service.planner import PlannerLimits, make_plan
from scheduler_service.state import EngineState
from scheduler_service.tenants import MEMORY_S, TENANTS, TenantService, tenant_of
from scheduler_service.view import Capacity, Ints

NOBODY = np.zeros(0, np.int64)


def rows(*names: str) -> Ints:
    return np.array([tenant_of(name) for name in names], np.int64)


def test_a_place_held_counts_as_its_share_of_the_engine():
    service = TenantService(4, {})
    service.served(rows("a", "a", "b"), 2.0)
    assert service.service_s[rows("a", "b", "idle")].tolist() == [1.0, 0.5, 0.0]


def test_a_heavier_tenant_is_charged_less():
    service = TenantService(2, {"big": 4.0, "small": 0.5})
    service.served(rows("big", "small", "plain"), 2.0)
    assert service.service_s[rows("big", "small", "plain")].tolist() == [0.25, 2.0, 1.0]


def test_service_fades_by_e_in_its_memory_however_many_steps_it_takes():
    once, often = TenantService(1, {}), TenantService(1, {})
    for service in (once, often):
        service.served(rows("a"), 1.0)
    once.served(NOBODY, MEMORY_S)
    for _ in range(100):
        often.served(NOBODY, MEMORY_S / 100)
    for service in (once, often):
        assert service.service_s[rows("a")] == pytest.approx([math.exp(-1)])


def test_a_tenant_that_has_the_engine_for_ever_owes_no_more_than_the_memory():
    service = TenantService(1, {})
    for _ in range(10_000):
        service.served(rows("a"), 0.1)
    assert service.service_s[rows("a")] == pytest.approx([MEMORY_S], rel=0.01)


def test_an_engine_of_unknown_size_is_one_place():
    service = TenantService(0, {})
    service.served(rows("a"), 3.0)
    assert service.service_s[rows("a")].tolist() == [3.0]


def test_requests_without_a_tenant_share_an_account_that_no_name_has():
    accounts = {tenant_of(f"tenant-{number}") for number in range(5000)}
    assert tenant_of("") == 0
    assert min(accounts) > 0
    assert max(accounts) < TENANTS
    assert tenant_of("tenant-1") == tenant_of("tenant-1") != tenant_of("tenant-2")


def test_a_tenant_that_was_idle_goes_before_one_that_was_served():
    state = EngineState(Capacity(1), tenant_weights={"paying": 100.0})
    tenants = ("busy", "busy", "paying", "idle")
    arrived = tuple(
        Declaration(number, f"r{number}", 10, arrival_s=float(number), tenant=tenant)
        for number, tenant in enumerate(tenants, 1)
    )
    state.apply(Delta(Epoch(1, 1), 0, arrived=arrived))
    for step, handle in enumerate((1, 1, 1, 3, 3, 3), 1):
        batch = Running(np.array([handle], np.uint64), np.array([step]), np.array([10 + step]))
        state.apply(Delta(Epoch(1, 1), step, step_duration_s=2.0, running=batch))
    plan = make_plan(state.view(), PolicyChoice("fair"), PlannerLimits())
    # Six seconds of a hundred times the weight are less than a tenth.
    assert plan.handles.tolist() == [3, 4, 1, 2]
