"""More than a service can do: who is sent away, what waits, and what is left afterwards."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import redis
import structlog

from predictor_service import metrics
from scheduler_service import metrics as scheduler_metrics
from sidecar.errors import PUSHBACK_KEY
from sidecar.redis import keys
from tests import artefacts
from tests.conftest import Valkey
from tests.integration.predictor_client import Client, EngineStream, client, declaration, decode_rows, service
from tests.integration.scheduler_engine import declared, engine, running_scheduler, until
from tests.patience import PATIENCE_S
from trail.v1 import predictor_pb2, scheduler_pb2

ENGINES = 4
SLOW_REQUESTS = 2000
"""So many that one answer is more than gRPC keeps for a client that does not read, unless it may find that out."""
NO_PROBES = ("grpc.http2.bdp_probe", 0)
MOST_IN_FLIGHT = 4
STEPS = 100
ABORTED, BURST = 3000, 250


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return artefacts.make(tmp_path / "tiny")


@pytest.fixture
async def predictor(models: Path, valkey: Valkey) -> AsyncIterator[Client]:
    async with service(models, valkey.url) as address, client(address) as connected:
        yield connected


async def stepping(stream: EngineStream) -> None:
    """One row after the other."""
    age = 0
    while True:
        age += 1
        await stream.step(decodes=decode_rows([1], [age]))


async def test_over_its_limit_a_service_sends_the_newest_engines_away_and_the_oldest_is_served(
    models: Path, valkey: Valkey
) -> None:
    before = metrics.SHED_STREAMS.labels("max_rows_per_s")._value.get()
    async with service(models, valkey.url, max_rows_per_s=0.1) as address, client(address) as predictor:
        streams = [predictor.stream(f"e{number}") for number in range(ENGINES)]
        for stream in streams:
            await stream.open(declaration(1))
        with structlog.testing.capture_logs() as logs:
            oldest = asyncio.create_task(stepping(streams[0]))
            ends = await asyncio.gather(*(stream.error() for stream in streams[1:]))
        for ended in ends:
            assert ended.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "max_rows_per_s" in str(ended.details())
            assert int(dict(ended.trailing_metadata() or ())[PUSHBACK_KEY]) >= 1000
        told = [line["engine"] for line in logs if line["event"] == "engine sent away"]
        assert sorted(told) == ["e1", "e2", "e3"]
        assert told.index("e3") < told.index("e2") < told.index("e1")
        assert metrics.SHED_STREAMS.labels("max_rows_per_s")._value.get() == before + ENGINES - 1
        with pytest.raises(grpc.aio.AioRpcError, match="full"):
            await predictor.stream("e3", counter=2).open(declaration(1))
        steps = metrics.STEPS._value.get()
        await until(lambda: metrics.STEPS._value.get() > steps + 10, "the oldest is served")
        assert not oldest.done()
        oldest.cancel()


async def test_an_engine_that_was_sent_away_finds_its_posteriors_at_another_replica(
    models: Path, valkey: Valkey
) -> None:
    async with (
        service(models, valkey.url, max_rows_per_s=0.1) as full,
        service(models, valkey.url) as other,
        client(full) as here,
        client(other) as there,
    ):
        first, second = here.stream("a"), here.stream("b")
        await first.open(declaration(1))
        await second.open(declaration(1))
        await second.step(decodes=decode_rows([1], [1]))
        stepped = asyncio.create_task(stepping(first))
        assert (await second.error()).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        stepped.cancel()
        opened = await there.stream("b", counter=2).open(declaration(1, age_tokens=1))
    assert opened.restored == 1
    assert opened.predictions.stages == [predictor_pb2.STAGE_DECODE]


async def test_answers_that_nobody_reads_hold_their_stream_up_and_do_not_pile_up(models: Path, valkey: Valkey) -> None:
    async with service(models, valkey.url) as address, client(address, NO_PROBES) as predictor:
        slow, other = predictor.stream("slow"), predictor.stream("other")
        handles = list(range(1, SLOW_REQUESTS + 1))
        await slow.open(*(declaration(handle) for handle in handles))
        await other.open(declaration(1))
        before = metrics.STEPS._value.get()

        async def write_all() -> None:
            for number in range(1, STEPS + 1):
                rows = decode_rows(handles, [number] * len(handles))
                step = predictor_pb2.PredictStep(epoch=slow.epoch, step=number, decodes=rows)
                await slow.call.write(predictor_pb2.StreamPredictRequest(step=step))

        writing = asyncio.create_task(write_all())
        for age in range(1, STEPS + 1):
            await other.step(decodes=decode_rows([1], [age]))
        assert 0 < metrics.STEPS._value.get() - before - STEPS <= MOST_IN_FLIGHT
        assert not writing.done()
        async with asyncio.timeout(PATIENCE_S):
            read = [(await slow.call.read()).predictions.step for _ in range(STEPS)]
            await writing
    assert read == list(range(1, STEPS + 1))


async def test_a_storm_of_aborts_leaves_nothing_behind(predictor: Client, valkey: Valkey) -> None:
    stream = predictor.stream("storm", incarnation=0xFEEDFACE)
    await stream.open()
    async with running_scheduler(valkey) as channel, engine(channel, "storm") as scheduled:
        for first in range(1, ABORTED + 1, BURST):
            handles = range(first, first + BURST)
            arrived = [declaration(handle) for handle in handles]
            told = await stream.step(declared=arrived)
            assert len(told.handles) == BURST
            await scheduled.step({}, arrived=[declared(handle) for handle in handles])
            await stream.step(finished=handles)
            outcomes = [
                scheduler_pb2.Outcome(handle=handle, reason=scheduler_pb2.FINISH_REASON_ABORT) for handle in handles
            ]
            await scheduled.step({}, finished=outcomes)

        def of_scheduler(metric: Any, **labels: str) -> float:
            return float(metric.labels(engine="storm", **labels)._value.get())

        finished = scheduler_metrics.FINISHED
        await until(lambda: of_scheduler(finished, reason="abort") >= ABORTED, "all have ended")
        await until(lambda: of_scheduler(scheduler_metrics.REQUESTS) == 0, "the scheduler let them go")
        assert metrics.POSTERIORS._value.get() == 0
        assert stored(valkey) == 0


def stored(valkey: Valkey) -> int:
    with valkey.client() as store:
        assert isinstance(store, redis.Redis)
        return int(store.hlen(keys("storm").posterior))
