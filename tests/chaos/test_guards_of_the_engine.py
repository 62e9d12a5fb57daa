"""What keeps an engine safe from its agent and its plans: with each guard the harm is not done, without it it is."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import time
import zlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine_adapter.agent import process, rows
from engine_adapter.agent.counters import Counters
from engine_adapter.agent.plans import PlanPublisher
from engine_adapter.agent.predictor_outbox import PredictorOutbox
from engine_adapter.agent.process import Agent, StartError
from engine_adapter.agent.reports import Reports
from engine_adapter.agent.scheduler_link import SchedulerLink
from engine_adapter.agent.settings import AgentSettings
from engine_adapter.board import BoardPlan, BoardReader, BoardWriter
from engine_adapter.records import handle_of
from engine_adapter.ring import HEADER_BYTES, RingConsumer, RingProducer
from tests.integration.agent_harness import ENGINE_ID, Harness
from tests.integration.agent_services import DIM, Predictor, Scheduler, Served
from tests.unit.engine_adapter import samples

GUARD = pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "guard off"])
ANYBODY = 2**32 - 1


def plan_for(*names: str, ttl_s: float = 60.0, victims: tuple[str, ...] = (), guard: int = ANYBODY) -> BoardPlan:
    """Names are of requests, best first; each victim makes room for the first of them."""
    return BoardPlan(
        number=1,
        expires_ns=time.monotonic_ns() + int(ttl_s * 1e9),
        handles=np.array([handle_of(name) for name in names], np.uint64),
        ranks=np.arange(len(names), dtype=np.float32),
        victims=np.array([handle_of(name) for name in victims], np.uint64),
        guards=np.full(len(victims), guard, np.uint32),
        beneficiaries=np.array([handle_of(names[0])] * len(victims), np.uint64),
    )


@GUARD
def test_a_plan_that_ran_out_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guarded: bool) -> None:
    if not guarded:
        monkeypatch.setattr(BoardPlan, "alive", lambda *_: True)
    harness = Harness(tmp_path, DIM)
    harness.submit(1)
    # Its writer died at once.
    BoardWriter(harness.paths.board).publish(plan_for("request-0", ttl_s=0.0))
    harness.engine.step()
    assert (harness.engine.plan is None) == guarded


@GUARD
def test_a_plan_that_was_torn_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guarded: bool) -> None:
    if not guarded:
        monkeypatch.setattr(zlib, "crc32", lambda *_: 0)
    board = tmp_path / "plan.board"
    writer, reader = BoardWriter(board), BoardReader(board)
    writer.publish(plan_for("a", "b"))
    writer.publish(plan_for("c", "d"))
    with board.open("r+b") as file:
        file.seek(HEADER_BYTES + 40)
        file.write(bytes(16))
    assert (reader.newest() is None) == guarded


@GUARD
def test_a_request_past_its_guard_is_not_preempted(tmp_path: Path, guarded: bool) -> None:
    harness = Harness(tmp_path, DIM)
    harness.submit(5)
    for _ in range(10):
        harness.engine.step()
    plan = plan_for("request-4", victims=("request-0",), guard=5)
    result = harness.engine.model.step(plan if guarded else replace(plan, guards=plan.guards + 100), time.time())
    assert (not result.preempted_by_plan) == guarded


@GUARD
def test_two_agents_do_not_share_a_ring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guarded: bool) -> None:
    if not guarded:
        monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    producer = RingProducer(tmp_path / "ring", 1 << 12)
    with process._only_agent_of(tmp_path, "e"):
        consumer = RingConsumer(tmp_path / "ring", 1 << 12)
        producer.write(b"record")
        with contextlib.suppress(StartError), process._only_agent_of(tmp_path, "e"):
            RingConsumer(tmp_path / "ring", 1 << 12)
    assert (consumer.read() == b"record") == guarded


@GUARD
def test_the_newest_row_of_a_request_wins(monkeypatch: pytest.MonkeyPatch, guarded: bool) -> None:
    if not guarded:
        monkeypatch.setattr(rows, "newest", lambda earlier, later: earlier)
    outbox = PredictorOutbox(100, Counters())
    outbox.start()
    for age in (3, 4):
        outbox.rows(samples.rows({"a": age}))
    message = outbox.take()
    assert message is not None
    assert (list(message.step.decodes.ages) == [4]) == guarded


class Site:
    """A simulated engine, its agent in this process, and services that do as they are told."""

    def __init__(self, root: Path) -> None:
        self.scheduler = Scheduler(ttl_ms=600_000)  # type: ignore[abstract]
        self.served = (Served(Predictor()), Served(self.scheduler))  # type: ignore[abstract]
        self.harness = Harness(root, DIM)

    @property
    def plan(self) -> BoardPlan | None:
        return self.harness.engine.plan

    async def steps(self, count: int) -> None:
        """So many, with time for the agent between them."""
        for _ in range(count):
            self.harness.engine.step()
            await asyncio.sleep(0.005)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    made, stop = Site(tmp_path), asyncio.Event()
    for served in made.served:
        await served.start()
    predictor, scheduler = (served.target for served in made.served)
    settings = AgentSettings(
        engine_id=ENGINE_ID,
        shm_root=tmp_path,
        predictor_target=predictor,
        scheduler_target=scheduler,
        plan_ttl_limit_ms=600_000,
    )
    agent = Agent(settings, made.harness.paths)
    serving = asyncio.create_task(agent.serve(stop))
    yield made
    stop.set()
    await serving
    await agent.close()
    for served in made.served:
        await served.stop()


@GUARD
async def test_a_plan_does_not_outlive_its_stream(site: Site, monkeypatch: pytest.MonkeyPatch, guarded: bool) -> None:
    site.harness.submit(2)
    await site.harness.until(lambda: site.plan)
    if not guarded:
        monkeypatch.setattr(PlanPublisher, "withdraw", lambda _: None)
    await site.served[1].stop()
    if guarded:
        await site.harness.until(lambda: site.plan is None)
    await site.steps(50)
    assert (site.plan is None) == guarded


@GUARD
async def test_a_plan_of_another_epoch_is_not_followed(
    site: Site, monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    if not guarded:
        monkeypatch.setattr(SchedulerLink, "_received", _received_from_anybody)
    site.scheduler.foreign_epochs = True
    site.harness.submit(2)
    await site.harness.until(lambda: len(site.scheduler.deltas) > 20)
    if not guarded:
        await site.harness.until(lambda: site.plan)
    assert (site.plan is None) == guarded


@GUARD
async def test_a_plan_of_a_scheduler_that_hears_nothing_runs_out(
    site: Site, monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    site.scheduler.ttl_ms = 300
    site.harness.submit(2)
    await site.harness.until(lambda: site.plan)
    if not guarded:
        monkeypatch.setattr(Reports, "age_ns", lambda *_: 0)
    site.scheduler.deaf = True
    deaf_s = time.monotonic()
    if guarded:
        await site.harness.until(lambda: site.plan is None)
        return
    planned = 0
    while time.monotonic() < deaf_s + 1.0 or planned < 20:
        await site.steps(1)
        planned += site.plan is not None and time.monotonic() > deaf_s + 0.6
        assert time.monotonic() < deaf_s + 60
    assert planned >= 20


def _received_from_anybody(link: SchedulerLink, response: Any) -> None:
    link._plans.publish(response.plan)
