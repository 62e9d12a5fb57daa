"""When plans are made: one for a step and its predictions, without waiting for a predictor that does not answer."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
from prometheus_client import REGISTRY

from scheduler_service.choice import PolicyBook, PolicyChoice
from scheduler_service.experiments.live import LiveExperiments
from scheduler_service.experiments.store import ExperimentStore
from scheduler_service.messages import Declaration, Delta, Epoch, Open, Predictions, PublishedMessage, Running
from scheduler_service.outcomes import OutcomeLog
from scheduler_service.session import EngineSession, NumberedPlan
from scheduler_service.settings import SchedulerSettings
from scheduler_service.view import Capacity
from tests.patience import PATIENCE_S

EPOCH = Epoch(1, 1)
LONG_MS, SHORT_MS = 600_000, 20


class Nowhere(OutcomeLog):
    """Outcomes go nowhere: no request ends here."""

    def __init__(self) -> None:
        pass


def choices(policy: str) -> LiveExperiments:
    """No experiment: the store is never looked at."""
    return LiveExperiments(ExperimentStore(None), PolicyBook(PolicyChoice(policy)), dict)  # type: ignore[arg-type]


class Bench:
    def __init__(self, wait_ms: int, policy: str = "trail") -> None:
        settings = SchedulerSettings(plan_ttl_ms=2 * LONG_MS, plan_interval_ms=0, prediction_wait_ms=wait_ms)
        opened = Open("e", EPOCH, Capacity(4, 100, 16, 256), (Declaration(1, "a", 8), Declaration(2, "b", 8)))
        self.session = EngineSession(opened, choices(policy), Nowhere(), settings)
        self.session.on_store(connected=True, reason="")
        self.plans = self.session.plans()
        self._step = 0

    async def begin(self) -> "Bench":
        """Both requests run and are predicted, and a plan says so."""
        self.step(1)
        self.predict(0)
        await self.next()
        return self

    def step(self, age: int) -> None:
        self._step += 1
        handles = np.array([1, 2], np.uint64)
        running = Running(handles, np.array([age, age]), np.array([8 + age, 8 + age]))
        self.session.apply(Delta(EPOCH, self._step, 0.01, running=running, free_kv_blocks=50))

    def predict(self, age: int) -> None:
        of = np.array([10.0, 20.0])
        ages = np.array([age, age])
        rows = Predictions(ages, np.array([3, 3]), of, of, of / 2, of * 2, np.zeros(2), of + age)
        self.session.on_predictions(PublishedMessage(EPOCH, self._step, np.array([1, 2], np.uint64), rows))

    def next(self) -> "asyncio.Task[NumberedPlan]":
        return asyncio.ensure_future(anext(self.plans))


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = await Bench(LONG_MS).begin()
    yield made
    await made.plans.aclose()  # type: ignore[attr-defined]


async def test_a_step_waits_for_its_predictions_and_both_make_one_plan(bench: Bench) -> None:
    bench.step(2)
    made = bench.next()
    await asyncio.sleep(0.05)
    assert not made.done()
    bench.predict(1)
    plan = (await asyncio.wait_for(made, PATIENCE_S)).plan
    assert plan.predicted_at_ages.tolist() == [1, 1]
    following = bench.next()
    await asyncio.sleep(0.05)
    assert not following.done()
    following.cancel()


async def test_a_predictor_that_does_not_answer_holds_nobody_up_for_long() -> None:
    bench = await Bench(SHORT_MS).begin()
    bench.step(2)
    plan = (await asyncio.wait_for(bench.next(), PATIENCE_S)).plan
    assert plan.predicted_at_ages.tolist() == [0, 0]


async def test_predictions_that_were_there_first_are_not_waited_for(bench: Bench) -> None:
    bench.predict(1)
    await asyncio.wait_for(bench.next(), PATIENCE_S)
    bench.step(2)
    plan = (await asyncio.wait_for(bench.next(), PATIENCE_S)).plan
    assert plan.predicted_at_ages.tolist() == [1, 1]


async def test_where_rows_come_now_and_then_only_the_first_step_after_them_waits() -> None:
    bench = await Bench(SHORT_MS).begin()
    bench.step(2)
    await asyncio.wait_for(bench.next(), PATIENCE_S)
    # From now on a wait would be one for ever.
    bench.session._settings.prediction_wait_ms = LONG_MS
    plans = bench.session.plans()
    for age in (3, 4, 5):
        bench.step(age)
        await asyncio.wait_for(anext(plans), PATIENCE_S)


async def test_a_policy_without_predictions_waits_for_none() -> None:
    bench = Bench(LONG_MS, policy="fcfs")
    bench.step(0)
    await asyncio.wait_for(bench.next(), PATIENCE_S)
    bench.step(1)
    await asyncio.wait_for(bench.next(), PATIENCE_S)


async def test_the_time_from_a_step_to_its_plan_is_counted_once_it_is_sent(bench: Bench) -> None:
    def counted() -> float:
        return REGISTRY.get_sample_value("trail_scheduler_step_to_plan_seconds_count") or 0.0

    for age in (1, 2):
        bench.step(age + 1)
        bench.predict(age)
        before = counted()
        await asyncio.wait_for(bench.next(), PATIENCE_S)
        # The plan before this one counts, for whoever asks for the next has sent it.
        assert counted() == before + 1
    bench.predict(3)
    before = counted()
    await asyncio.wait_for(bench.next(), PATIENCE_S)
    bench.predict(4)
    await asyncio.wait_for(bench.next(), PATIENCE_S)
    assert counted() == before + 1
