from dataclasses import fields
from itertools import count

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from engine_adapter.agent.counters import Counters
from engine_adapter.agent.hops import Hops
from engine_adapter.agent.living import LivingRequests
from engine_adapter.agent.metrics import _FIELD, COUNTERS, AgentMetrics
from engine_adapter.agent.plan_book import PlanBook
from engine_adapter.records import handle_of
from sidecar.tracing import Tracing
from tests.unit.engine_adapter.samples import step


class Bench:
    def __init__(self) -> None:
        self.counters = Counters()
        self.plans = PlanBook(self.counters)
        self.registry = CollectorRegistry()
        parts = (self.plans, LivingRequests(8, self.counters), (), Hops("e", Tracing()))
        self.registry.register(AgentMetrics("e", self.counters, *parts))

    def told(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"trail_agent_{name}", {"engine": "e", **labels})


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_every_counter_is_exported_with_the_engine_and_a_help_text(bench: Bench) -> None:
    told = {_FIELD.get(name, name) for name in COUNTERS} | {"fail_open_steps"}
    assert told == {field.name for field in fields(Counters)}
    for number, field in zip(count(3), fields(Counters), strict=False):
        setattr(bench.counters, field.name, number)
    for name in COUNTERS:
        assert bench.told(f"{name}_total") == getattr(bench.counters, _FIELD.get(name, name))


def test_steps_in_the_engines_own_order_are_told_by_reason(bench: Bench) -> None:
    bench.plans.stepped(step(1, {"a": 3}))
    bench.plans.stepped(step(2, {}))
    assert bench.told("fail_open_steps_total", reason="scheduler_gone") == 1
    assert bench.told("fail_open_steps_total", reason="plan_expired") == 0


def test_prediction_ages_are_a_histogram_of_what_was_used(bench: Bench) -> None:
    handles = np.array([handle_of(name) for name in "abc"], np.uint64)
    bench.plans.add(5, handles, np.array([9, 6, 0], np.uint32))
    bench.plans.stepped(step(1, {"a": 9, "b": 9, "c": 5000}, plan=5))
    buckets = {edge: bench.told("prediction_age_tokens_bucket", le=edge) for edge in ("0.0", "2.0", "4.0", "1023.0")}
    assert buckets == {"0.0": 1, "2.0": 1, "4.0": 2, "1023.0": 2}
    assert bench.told("prediction_age_tokens_count") == 3
    assert bench.told("prediction_age_tokens_sum") == 0 + 3 + 1024
    assert bench.told("plan_age_seconds_count") == 1
