"""The store's master dies under load: no request is lost, predictions come again, and one writer at a time writes."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from benchmarks import redis_servers, replicas
from benchmarks.redis_servers import Servers
from predictor_service.store import Fenced, Store, StoreUnavailable
from sidecar.cli.load.options import LoadOptions
from sidecar.cli.load.run import Load
from sidecar.redis import connect, keys, next_message, subscribe
from sidecar.stopping import stop
from tests import artefacts
from tests.integration import real_redis
from tests.patience import PATIENCE_S
from trail.v1 import state_pb2

DIM = 16
ENGINES = 3
VICTIM = "load-0"
"""The engine whose master is killed."""
KINDS = {"cluster": redis_servers.cluster, "sentinel": redis_servers.with_sentinels}


@pytest.fixture(params=KINDS)
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Servers]:
    real_redis.require()
    start: Callable[[Path], AbstractContextManager[Servers]] = KINDS[request.param]
    with start(tmp_path / "redis") as started:
        yield started


@dataclass
class Witness:
    """Hears what is published for one engine, whoever publishes it, and across fail-overs."""

    url: str
    heard: list[tuple[int, int, int]] = field(default_factory=list)
    """Incarnation, counter and number of each message."""

    async def listen(self) -> None:
        channel = keys(VICTIM).predictions
        while True:
            with contextlib.suppress(Exception):
                async with connect(self.url, 500) as client, client.pubsub() as pubsub:
                    await subscribe(client, pubsub, channel)
                    while True:
                        message = await next_message(pubsub, 0.5)
                        if message is not None and message["type"] == "smessage":
                            told = state_pb2.PublishedPredictions.FromString(message["data"])
                            self.heard.append((told.epoch.incarnation, told.epoch.counter, told.number))
                        await client.get(keys(VICTIM).owner)
            await asyncio.sleep(0.1)


async def until(condition: Callable[[], object], what: str) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s, f"never: {what}"
        await asyncio.sleep(0.1)


async def test_a_master_killed_under_load_costs_no_request_and_predictions_come_again(
    servers: Servers, tmp_path: Path
) -> None:
    model = artefacts.make(tmp_path / "model", hidden_size=DIM)
    shared = {"redis_url": servers.url}
    predictors = [
        replicas.Replica("predictor_service.main", tmp_path / f"predictor-{number}.log", model_dir=model, **shared)
        for number in range(2)
    ]
    scheduler = replicas.Replica("scheduler_service.main", tmp_path / "scheduler.log", **shared)
    with replicas.running([*predictors, scheduler]):
        options = LoadOptions(
            replicas.addresses(predictors), scheduler.address, ENGINES, requests=6, waiting=3, dim=DIM, step_ms=30
        )
        witness = Witness(servers.url)
        listening = asyncio.create_task(witness.listen())
        with Load(options) as load:
            assert await asyncio.to_thread(load.connect) == ENGINES
            load.begin()
            await until(lambda: len(witness.heard) > 20, "predictions are published")
            master = servers.master_of(keys(VICTIM).owner)
            killed_s = time.time()
            master.kill()
            before = len(witness.heard)
            await until(
                lambda: any(gap.ended_s > killed_s and gap.engine_id == VICTIM for gap in load.gaps),
                "predictions came again",
            )
            await until(lambda: len(witness.heard) > before + 50, "they are published by the new master")
            await until(lambda: load.connected == ENGINES, "all engines are connected")
            rows = load.result()["rows_per_s"]
        found = load.result()
        await stop([listening])
    assert found["requests_lost"] == 0
    assert found["requests_ended"] > 0
    assert rows > 0
    assert found["row_errors"] == 0
    # One writer at a time: what an epoch published is never followed by anything of an older one.
    for earlier, later in itertools.pairwise(witness.heard):
        assert earlier[0] == later[0]
        assert earlier[1:] < later[1:]


async def test_a_writer_that_lost_its_engine_stays_fenced_through_a_fail_over(servers: Servers) -> None:
    """Two writers try all the while: the one that was overtaken never gets through, the other one does again."""
    wrote: list[tuple[float, str]] = []
    async with connect(servers.url, 500) as client:
        store = Store(client, timeout_ms=500, expire_s=60)
        await store.prepare()
        await store.claim(VICTIM, "7:1", ["a"])
        await store.commit(VICTIM, "7:1", {"a": b"first"})
        await store.claim(VICTIM, "7:2", ["a"])
        master = servers.master_of(keys(VICTIM).owner)
        with master.client() as direct:
            # A claim that no replica has can be lost; then the agent's next one decides. This one is not lost.
            assert direct.wait(1, 5000) >= 1
        refused: list[tuple[str, str]] = []

        async def write(epoch: str) -> None:
            while True:
                try:
                    await store.commit(VICTIM, epoch, {"a": epoch.encode()})
                    wrote.append((time.monotonic(), epoch))
                except Fenced as error:
                    refused.append((epoch, error.owner))
                except StoreUnavailable:
                    pass
                await asyncio.sleep(0.02)

        writers = [asyncio.create_task(write(epoch)) for epoch in ("7:1", "7:2")]
        try:
            await until(lambda: len(wrote) > 10 and len(refused) > 10, "both have tried")
            killed_s, before = time.monotonic(), len(refused)
            master.kill()
            await until(lambda: wrote[-1][0] > killed_s + 0.2 and len(refused) > before + 10, "the new master serves")
        finally:
            await stop(writers)
        assert all(task.cancelled() for task in writers)
        assert {epoch for _, epoch in wrote} == {"7:2"}
        assert set(refused) == {("7:1", "7:2")}
        assert await client.hgetall(keys(VICTIM).posterior) == {b"a": b"7:2"}
