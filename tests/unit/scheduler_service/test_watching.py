"""What Prometheus is told of an engine is what the scheduler knows of it, and goes with it."""

import math
import time
from collections.abc import Iterator

import numpy as np
import pytest
from prometheus_client import REGISTRY

from scheduler_service.choice import PolicyChoice
from scheduler_service.messages import Declaration, Delta, Epoch, Outcome, Running
from scheduler_service.overtaking import Overtaking
from scheduler_service.state import EngineState
from scheduler_service.view import Capacity
from scheduler_service.watching import LOOK_EVERY_S, EngineWatch

EPOCH = Epoch(1, 1)
ENGINE = "watched"
BOUND_S = 10.0


def told(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"trail_scheduler_{name}", {"engine": ENGINE, **labels})


class Bench:
    """An engine with two places. Request 1 came 100 s ago and waits; 2 and 3 came later and run, a second a step."""

    def __init__(self) -> None:
        now_s = time.time()
        self.state = EngineState(Capacity(2, 100, 16, 256))
        self.state.declare(Declaration(handle, f"r{handle}", 8, arrival_s=now_s - 100 + handle) for handle in (1, 2, 3))
        self.watch = EngineWatch(ENGINE, self.state)
        self._step, self._looked_s = 0, 0.0
        self.step(0.0)

    def step(self, duration_s: float) -> None:
        self._step += 1
        handles = np.array([2, 3], np.uint64)
        running = Running(handles, np.array([self._step] * 2), np.array([8 + self._step] * 2))
        self.state.apply(Delta(EPOCH, self._step, duration_s, running=running, free_kv_blocks=25))

    def look(self, choice: PolicyChoice | None = None) -> None:
        self._looked_s += LOOK_EVERY_S
        self.state.view(time.time(), BOUND_S)
        self.watch.look(choice or PolicyChoice(overtaking_s=BOUND_S), self._looked_s)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.watch.gone()


def test_the_queue_is_told_with_its_longest_wait(bench: Bench) -> None:
    bench.look()
    assert (told("requests"), told("running_requests"), told("waiting_requests")) == (3, 2, 1)
    assert told("longest_wait_seconds") == pytest.approx(99, abs=5)
    assert told("kv_used_ratio") == 0.75


def test_the_margin_shrinks_by_what_later_arrivals_get_and_ends_where_the_waiting_one_goes_ahead(bench: Bench) -> None:
    bench.look()
    assert told("starvation_margin_seconds") == BOUND_S
    for _ in range(4):
        bench.step(1.0)
    bench.look()
    # Both places served later arrivals for four seconds.
    assert told("starvation_margin_seconds") == pytest.approx(BOUND_S - 4)
    for _ in range(7):
        bench.step(1.0)
    bench.look()
    assert told("starvation_margin_seconds") == 0
    assert bench.state.view(0.0, BOUND_S).overtaken_before_s >= bench.state.requests.rows["arrival_s"].min()


def test_without_a_bound_the_margin_has_no_end(bench: Bench) -> None:
    bench.look(PolicyChoice(overtaking_s=0.0))
    assert told("starvation_margin_seconds") == math.inf


def test_the_arm_is_the_one_that_plans_now(bench: Bench) -> None:
    bench.look(PolicyChoice("srpt"))
    bench.look(PolicyChoice("fcfs", "prompt_only"))
    assert told("arm", policy="fcfs", predictor="prompt_only") == 1
    assert told("arm", policy="srpt", predictor="per_step") is None


def test_between_two_looks_nothing_is_reckoned(bench: Bench) -> None:
    bench.look()
    bench.step(1.0)
    bench.watch.look(PolicyChoice(overtaking_s=BOUND_S), bench._looked_s + LOOK_EVERY_S / 2)
    assert told("starvation_margin_seconds") == BOUND_S


def test_an_engine_that_is_gone_leaves_no_state_behind(bench: Bench) -> None:
    bench.look()
    bench.watch.gone()
    bench.look()
    for name in ("requests", "waiting_requests", "starvation_margin_seconds", "longest_wait_seconds"):
        assert told(name) is None
    assert told("arm", policy="trail", predictor="per_step") is None


def test_ends_are_counted_and_only_whole_requests_have_a_latency(bench: Bench) -> None:
    before = told("request_latency_seconds_count") or 0
    bench.watch.finished(Outcome(2, "stop", 5, latency_s=3.0, time_to_first_token_s=1.0))
    bench.watch.finished(Outcome(3, "abort", 5, latency_s=3.0))
    assert told("request_latency_seconds_count") == before + 1
    assert told("finished_requests_total", reason="abort") >= 1  # type: ignore[operator]


def test_service_of_earlier_arrivals_takes_nothing_from_the_margin() -> None:
    overtaking = Overtaking(places=2)
    for arrival_s in (1.0, 2.0, 3.0):
        overtaking.arrived(arrival_s)
    overtaking.served(np.array([1.0, 3.0]), 4.0)
    assert [overtaking.overtaken_s(arrival_s) for arrival_s in (1.0, 2.0, 3.0)] == [2.0, 2.0, 0.0]
    overtaking.let_ahead(bound_s=2.0, oldest_s=1.0)
    assert [overtaking.overtaken_s(arrival_s) for arrival_s in (1.0, 2.0, 3.0)] == [math.inf, math.inf, 0.0]
