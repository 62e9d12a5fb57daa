"""The poller over real rings; the links are never run, so what they would send stays in their outboxes."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine_adapter.agent.channel import Channel
from engine_adapter.agent.counters import Counters
from engine_adapter.agent.epochs import EpochMint
from engine_adapter.agent.hops import Hops
from engine_adapter.agent.intake import Intake
from engine_adapter.agent.living import LivingRequests
from engine_adapter.agent.plan_book import PlanBook
from engine_adapter.agent.plans import PlanPublisher
from engine_adapter.agent.poller import QUIET_S, Poller
from engine_adapter.agent.prediction_book import PredictionBook
from engine_adapter.agent.predictor_link import PredictorLink
from engine_adapter.agent.scheduler_link import SchedulerLink
from engine_adapter.agent.settings import AgentSettings
from engine_adapter.bell import Bell, Ringer
from engine_adapter.board import BoardWriter
from engine_adapter.records import Engine, Step, handle_of
from engine_adapter.ring import RingConsumer, RingProducer
from sidecar.tracing import Tracing
from tests.unit.engine_adapter.samples import arrived, finished, rows, step

ENGINE = Engine(4, 100, 16, 256)


class Bench:
    """A poller with everything it feeds."""

    def __init__(self, folder: Path) -> None:
        self.events = RingProducer(folder / "events.ring", 1 << 16)
        self.bell = Bell(folder / "rows.bell")
        self.rows = RingProducer(folder / "rows.ring", 1 << 16, Ringer(folder / "rows.bell"))
        self.counters, self.ready = Counters(), asyncio.Event()
        self.signals: list[str] = []
        settings, epochs, hops = AgentSettings(), EpochMint(), Hops("engine", Tracing())
        self.living = LivingRequests(settings.max_requests, self.counters)
        predictions, plans = PredictionBook(self.counters), PlanBook(self.counters)
        publisher = PlanPublisher(BoardWriter(folder / "plan.board"), plans, 1000, self.counters, hops)
        self.channel = Channel("127.0.0.1:1", settings)
        self.predictor = PredictorLink(
            self.channel, settings, epochs, self.ready, self.living, predictions, self.counters, hops
        )
        self.scheduler = SchedulerLink(
            self.channel, settings, epochs, self.ready, self.living, publisher, self.counters, hops
        )
        self.poller = Poller(
            RingConsumer(folder / "events.ring", 1 << 16),
            RingConsumer(folder / "rows.ring", 1 << 16),
            self.bell,
            Intake(self.living, self.predictor, self.scheduler, predictions, plans, self.counters),
            self.ready,
            self.counters,
            restarted=lambda: self.signals.append("restarted"),
            lost=lambda: self.signals.append("lost"),
        )

    def tell(self, *records: object) -> None:
        for record in records:
            self.events.write(record.pack())  # type: ignore[attr-defined]

    def begin(self) -> None:
        """The engine declares itself, and streams are open."""
        self.tell(ENGINE, step())
        self.poller.poll()
        self.predictor.outbox.start()
        self.scheduler.outbox.start()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    yield made
    await made.channel.close()


async def test_nothing_is_believed_before_the_engine_declares_itself(bench: Bench) -> None:
    bench.tell(arrived("a"), step(1, {"a": 1}))
    bench.poller.poll()
    assert len(bench.living) == 0
    assert not bench.ready.is_set()


async def test_a_declaration_is_complete_with_the_step_after_it(bench: Bench) -> None:
    bench.tell(ENGINE, arrived("a"), arrived("b"))
    bench.poller.poll()
    assert not bench.ready.is_set()
    bench.tell(step(1, {"a": 1}))
    bench.poller.poll()
    assert bench.ready.is_set()
    assert len(bench.living) == 2


async def test_a_declaration_of_an_idle_engine_is_complete_when_nothing_follows(bench: Bench) -> None:
    bench.tell(ENGINE)
    bench.poller.poll()
    time.sleep(QUIET_S * 1.5)  # noqa: ASYNC251 - nothing else runs here
    bench.poller.poll()
    assert bench.ready.is_set()


async def test_a_second_declaration_replaces_the_first(bench: Bench) -> None:
    bench.tell(ENGINE, arrived("a"), arrived("gone"), step())
    bench.poller.poll()
    bench.tell(ENGINE, arrived("a"), step())
    bench.poller.poll()
    assert [d.request_id for d in bench.living.declarations()] == ["a"]
    assert bench.signals == ["lost", "lost"]


def part(number: int) -> Step:
    """All of the batch one token further."""
    return replace(step(number), whole=False)


async def test_a_part_of_a_step_goes_on_from_the_step_before(bench: Bench) -> None:
    bench.begin()
    bench.tell(arrived("a"), arrived("b"), step(4, {"a": 1, "b": 7}), part(5), part(6))
    bench.poller.poll()
    assert [bench.living.age(handle_of(name)) for name in "ab"] == [3, 9]
    message = bench.scheduler.outbox.take()
    assert message is not None
    assert (message.engine_steps, list(message.running.computed_tokens)) == (3, [6, 12])


async def test_a_part_of_another_step_than_the_next_is_passed_over(bench: Bench) -> None:
    bench.tell(part(1))
    bench.begin()
    bench.tell(arrived("a"), step(4, {"a": 1}), part(6), part(7), ENGINE, part(8))
    bench.poller.poll()
    assert bench.counters.steps == 2


async def test_a_row_that_comes_before_its_request_waits_for_one_poll(bench: Bench) -> None:
    bench.begin()
    bench.rows.write(*rows({"a": 1}).pack())
    bench.poller.poll()
    assert bench.counters.rows_dropped == 0
    bench.tell(arrived("a"))
    bench.poller.poll()
    message = bench.predictor.outbox.take()
    assert message is not None
    assert len(message.step.decodes.handles) == len(message.step.declared) == 1


async def test_a_row_of_a_request_that_never_comes_is_dropped_and_counted(bench: Bench) -> None:
    bench.begin()
    bench.rows.write(*rows({"a": 1, "b": 2, "c": 0}).pack())
    bench.poller.poll()
    bench.poller.poll()
    assert bench.counters.rows_dropped == 3
    assert bench.predictor.outbox.take() is None


async def test_of_a_step_with_known_and_unknown_rows_the_known_go_on(bench: Bench) -> None:
    bench.begin()
    bench.tell(arrived("a"))
    bench.rows.write(*rows({"a": 1, "b": 2}).pack())
    bench.poller.poll()
    message = bench.predictor.outbox.take()
    assert message is not None
    assert list(message.step.decodes.ages) == [1]


async def test_the_end_of_an_unknown_request_is_not_told(bench: Bench) -> None:
    bench.begin()
    bench.scheduler.outbox.take()
    bench.tell(finished("stranger"))
    bench.poller.poll()
    assert bench.scheduler.outbox.take() is None
    assert bench.predictor.outbox.take() is None


async def test_an_engine_that_starts_anew_is_forgotten_and_asked(bench: Bench, tmp_path: Path) -> None:
    bench.begin()
    bench.tell(arrived("a"))
    bench.poller.poll()
    generation = bench.events.consumer_generation
    again = RingProducer(tmp_path / "events.ring", 1 << 16)
    bench.poller.poll()
    assert bench.signals[-1] == "restarted"
    assert len(bench.living) == 0
    assert not bench.ready.is_set()
    assert again.consumer_generation == generation + 1


async def test_rows_that_did_not_fit_into_the_ring_are_counted(bench: Bench) -> None:
    bench.begin()
    bench.rows.write(b"x" * (1 << 17))
    bench.poller.poll()
    assert bench.counters.row_records_dropped == 1


async def test_rows_are_read_when_the_bell_rings_and_not_only_when_it_is_time(bench: Bench) -> None:
    bench.begin()
    bench.tell(arrived("a"), step())
    bench.poller.poll()
    polling = asyncio.create_task(bench.poller.run(interval_s=3600, idle_interval_s=3600))
    await asyncio.sleep(0.05)
    bench.rows.write(*rows({"a": 1}).pack())
    for _ in range(1000):
        await asyncio.sleep(0.01)
        if (message := bench.predictor.outbox.take()) is not None and message.step.decodes.handles:
            break
    else:
        pytest.fail("the rows were not read in 10 s")
    polling.cancel()
