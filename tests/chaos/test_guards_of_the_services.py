"""What keeps predictions true: with each guard the harm is not done, without it it is."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from predictor_service import engine as engine_module
from predictor_service import selection, store, wire_store
from predictor_service.artefact import load
from predictor_service.session import EngineSession
from predictor_service.step import Declaration, Rows, Step
from predictor_service.store import Fenced, Store
from scheduler_service.freshness import Freshness
from scheduler_service.messages import Predictions, PublishedMessage, Snapshot
from scheduler_service.numbering import Numbering
from scheduler_service.state import EngineState
from scheduler_service.subscriber import PredictionSubscriber
from scheduler_service.view import Capacity
from sidecar.redis import connect, keys
from tests import artefacts
from tests.chaos.test_guards_of_the_engine import GUARD
from tests.conftest import Valkey
from tests.integration import scheduler_engine
from tests.integration.predictor_client import client, decode_rows, service
from tests.integration.predictor_client import declaration as declared
from tests.unit.predictor_service.test_session import declare
from tests.unit.scheduler_service import test_engine_state as samples
from trail.v1 import engine_pb2, predictor_pb2, state_pb2

ENGINE = "e"
NAMES = keys(ENGINE)


def without(monkeypatch: pytest.MonkeyPatch, line: str, instead: str) -> None:
    """Has the store's functions do without a line."""
    assert line in store.LIBRARY
    monkeypatch.setattr(store, "LIBRARY", store.LIBRARY.replace(line, instead))


@GUARD
async def test_a_writer_that_was_replaced_cannot_write(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    if not guarded:
        without(monkeypatch, "if owner ~= epoch then", "if false then")
    async with connect(valkey.url, 10_000) as redis:
        posteriors = Store(redis, timeout_ms=10_000, expire_s=60)
        await posteriors.claim(ENGINE, "7:1", ["a"])
        await posteriors.claim(ENGINE, "7:2", ["a"])
        await posteriors.commit(ENGINE, "7:2", {"a": b"new"})
        with contextlib.suppress(Fenced):
            await posteriors.commit(ENGINE, "7:1", {"a": b"old"})
        assert (await redis.hget(NAMES.posterior, "a") == b"new") == guarded


@GUARD
async def test_an_open_that_was_overtaken_cannot_claim(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    if not guarded:
        without(monkeypatch, "tonumber(their_counter) > tonumber(my_counter)", "false")
    async with connect(valkey.url, 10_000) as redis:
        posteriors = Store(redis, timeout_ms=10_000, expire_s=60)
        await posteriors.claim(ENGINE, "7:2", ["a"])
        with contextlib.suppress(Fenced):
            await posteriors.claim(ENGINE, "7:1", ["a"])
        assert (await redis.get(NAMES.owner) == b"7:2") == guarded


@GUARD
async def test_a_lost_deletion_does_not_live_on(valkey: Valkey, monkeypatch: pytest.MonkeyPatch, guarded: bool) -> None:
    if not guarded:
        without(monkeypatch, "dead[#dead + 1] = fields[i]", "")
    async with connect(valkey.url, 10_000) as redis:
        posteriors = Store(redis, timeout_ms=10_000, expire_s=60)
        await posteriors.claim(ENGINE, "7:1", ["a", "b"])
        await posteriors.commit(ENGINE, "7:1", {"a": b"1", "b": b"2"})
        await posteriors.claim(ENGINE, "7:2", ["a"])
        assert (await redis.hkeys(NAMES.posterior) == [b"a"]) == guarded


@GUARD
async def test_a_store_that_lost_commits_is_not_written_on(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    """It failed over to a replica that had not heard of them."""
    if not guarded:
        without(monkeypatch, "number ~= 0 and number ~= next_number", "false")
    async with connect(valkey.url, 10_000) as redis:
        posteriors = Store(redis, timeout_ms=10_000, expire_s=60)
        await posteriors.claim(ENGINE, "7:1", ["a", "b"])
        await posteriors.commit(ENGINE, "7:1", {"a": b"1", "b": b"1"}, number=1)
        kept = {key: await redis.dump(key) or b"" for key in await redis.keys("trail:*")}
        await posteriors.commit(ENGINE, "7:1", {}, ["b"], number=2)
        for key, content in kept.items():
            await redis.restore(key, 0, content, replace=True)
        with contextlib.suppress(Fenced):
            await posteriors.commit(ENGINE, "7:1", {"a": b"3"}, number=3)
            assert await redis.hget(NAMES.posterior, "b") == b"1"
        assert (await redis.hget(NAMES.posterior, "a") == b"1") == guarded


@GUARD
async def test_an_engine_back_with_the_same_ids_does_not_inherit_the_dead_ones(
    tmp_path: Path, valkey: Valkey, monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    if not guarded:
        monkeypatch.setattr(engine_module, "_usable", _all_that_is_stored)
    artefacts.make(tmp_path / "tiny")
    async with service(tmp_path, valkey.url) as address, client(address) as connected:
        before = connected.stream(incarnation=9)
        await before.open(declared(1))
        await before.step(decodes=decode_rows([1], [100]))
        after = connected.stream(incarnation=7)
        opened = await after.open(declared(1))
        assert (list(opened.predictions.ages) == [0]) == guarded


@GUARD
def test_rows_that_are_no_numbers_spoil_no_posterior(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    """Two guards, of what comes in and of what the model says: both are off."""
    if not guarded:
        monkeypatch.setattr(selection, "_is_finite", lambda hidden: np.ones(len(hidden), np.bool_))
        monkeypatch.setattr(np, "isfinite", lambda p: np.ones_like(p, np.bool_))
    artefact = load(artefacts.make(tmp_path / "tiny"))
    posteriors = EngineSession(artefact, max_requests=10)
    posteriors.open([declare(1)], {})
    _refine(posteriors, np.full((1, 16), np.nan, np.float16))
    assert np.isnan(posteriors.requests.q).any() == (not guarded)


@GUARD
def test_a_model_that_says_nan_spoils_no_posterior(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    artefact = load(artefacts.make(tmp_path / "tiny"))
    posteriors = EngineSession(artefact, max_requests=10)
    posteriors.open([declare(1)], {})
    poisoned = np.full((1, len(artefacts.EDGES)), np.nan)
    monkeypatch.setattr(type(artefact), "reader", lambda *_: lambda *_: poisoned)
    if not guarded:
        monkeypatch.setattr(np, "isfinite", lambda p: np.ones_like(p, np.bool_))
    _refine(posteriors, np.zeros((1, 16), np.float16))
    assert np.isnan(posteriors.requests.q).any() == (not guarded)


@GUARD
def test_predictions_that_are_no_numbers_rank_nobody(monkeypatch: pytest.MonkeyPatch, guarded: bool) -> None:
    if not guarded:
        monkeypatch.setattr(Predictions, "usable", lambda rows: np.ones(len(rows.ages), np.bool_))
    state = EngineState(Capacity(max_running_requests=2))
    state.declare([samples.request(1)])
    state.apply_predictions(samples.message(1, samples.predictions(0, 10.0)))
    state.apply_predictions(samples.message(1, samples.predictions(1, float("nan")), number=2))
    assert np.isfinite(state.view().mean).all() == guarded


class Sink:
    """Counts what a subscriber tells."""

    def __init__(self) -> None:
        self.answers = self.snapshots = 0

    def on_predictions(self, message: PublishedMessage) -> None:
        self.answers += 1

    def on_snapshot(self, snapshot: Snapshot) -> None:
        self.snapshots += 1

    def on_store(self, connected: bool, reason: str) -> None:
        pass


@GUARD
async def test_a_repeated_message_is_no_answer_and_a_lost_one_is_made_up_for(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    if not guarded:
        monkeypatch.setattr(Numbering, "hear", lambda *_: "next")
    sink = Sink()
    async with connect(valkey.url, 10_000) as redis:
        subscriber = PredictionSubscriber(redis, ENGINE, 7, sink)
        for number in (1, 2, 2, 1, 4):
            await subscriber._hear(_published(number))
    assert ((sink.answers, sink.snapshots) == (3, 1)) == guarded
    assert ((sink.answers, sink.snapshots) == (5, 0)) == (not guarded)


@GUARD
async def test_a_predictor_that_died_steers_for_one_time_to_live(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch, guarded: bool
) -> None:
    """Without the guard plans are made for ever, by predictions that get older and older."""
    if not guarded:
        monkeypatch.setattr(Freshness, "ttl_ms", lambda _, evidence, plan_ttl_ms, now_s: plan_ttl_ms)
    predictor = scheduler_engine.Predictor(valkey, ENGINE)
    async with (
        scheduler_engine.running_scheduler(valkey, plan_ttl_ms=200) as channel,
        scheduler_engine.engine(channel, ENGINE, handles=(1, 2)) as connected,
    ):
        await predictor.listened_to()
        predictor.publish(0, {1: 100.0, 2: 50.0})
        await connected.step({1: 1})
        await connected.plan(lambda plan: True, "a plan", after=0)
        for age in range(2, 60):
            await connected.step({1: age})
            await asyncio.sleep(0.02)
        assert connected.plans_stopped_for(0.5) == guarded


def _refine(posteriors: EngineSession, hidden: Any) -> None:
    none = Rows(np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros((0, 16), np.float16))
    one = Rows(np.array([1], np.uint64), np.array([1]), hidden)
    posteriors.apply(Step(1, (), none, one, np.zeros(0, np.uint64)))


def _all_that_is_stored(claim: Any, writer: Any, artefact: Any, declarations: list[Declaration]) -> dict[str, Any]:
    return {name: wire_store.unpack(name, value, artefact) for name, value in claim.records.items()}


def _published(number: int) -> bytes:
    rows = predictor_pb2.StepPredictions(
        handles=[1], ages=[number], stages=[predictor_pb2.STAGE_DECODE],
        mean=[9], median=[9], p10=[9], p90=[9], initial=[9],
    )  # fmt: skip
    epoch = engine_pb2.Epoch(incarnation=7, counter=1)
    return state_pb2.PublishedPredictions(epoch=epoch, number=number, predictions=rows).SerializeToString()
