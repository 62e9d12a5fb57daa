"""What probes and strangers are told of a service's health."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar import health as health_module
from sidecar.health import Health
from tests.integration import http2
from tests.patience import PATIENCE_S
from tests.unit.sidecar.test_server import running

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def request(service: str = "") -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


async def test_whoever_watches_is_told_of_every_change() -> None:
    health = Health("store")
    async with running(health) as (port, _), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(request("store"))
        async with asyncio.timeout(PATIENCE_S):
            assert (await watch.read()).status == NOT_SERVING
            health.set("store", True)
            assert (await watch.read()).status == SERVING
            health.drain()
            assert (await watch.read()).status == NOT_SERVING
        watch.cancel()


async def test_an_unknown_name_ends_a_watch_and_a_check() -> None:
    async with running(Health()) as (port, _), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(request("nobody"))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        assert await watch.read() is grpc.aio.EOF
        with pytest.raises(grpc.aio.AioRpcError, match="no such service") as refused:
            await stub.Check(request("nobody"))
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND


async def test_what_strangers_send_is_small_and_they_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_module, "MOST_WATCHERS", 1)
    async with running(Health()) as (port, _), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.aio.AioRpcError, match="limit 512 bytes"):
            await stub.Check(request("x" * 600))
        first, second = stub.Watch(request()), stub.Watch(request())
        assert (await first.read()).status == SERVING
        with pytest.raises(grpc.aio.AioRpcError, match="more than 1 watch") as refused:
            await second.read()
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        first.cancel()


async def test_a_compressed_message_is_refused() -> None:
    """It would be a thousand times as large here as on its way."""
    async with running(Health()) as (port, _), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = health_pb2_grpc.HealthStub(channel).Check(request("x" * 400), compression=grpc.Compression.Gzip)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


@asynccontextmanager
async def strangers_call(port: int, method: str, message: bytes, window_bytes: int) -> AsyncIterator[Any]:
    """A call that its client never ends; what is said to it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    headers = http2.frame(http2.HEADERS, http2.END_HEADERS, 1, http2.call(f"/grpc.health.v1.Health/{method}"))
    writer.write(http2.greeting(window_bytes) + headers + http2.frame(http2.DATA, 0, 1, message))
    yield reader
    writer.close()


async def test_whoever_does_not_end_his_question_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_module, "MESSAGE_S", 0.1)
    async with running(Health()) as (port, _):
        for method in ("Check", "Watch"):
            call = strangers_call(port, method, b"\0\0\0\1\0half", 65535)
            async with call as said, asyncio.timeout(PATIENCE_S):
                await said.readuntil(b"no request within")


async def test_a_watcher_that_does_not_read_has_a_place_and_delays_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_module, "MOST_WATCHERS", 2)
    health = Health("store")
    async with running(health) as (port, _), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        async with asyncio.timeout(PATIENCE_S):
            async with strangers_call(port, "Watch", bytes(5), window_bytes=0) as said:
                await said.readuntil(b"application/grpc")
                watch = stub.Watch(request("store"))
                assert (await watch.read()).status == NOT_SERVING
                for serving, status in ((True, SERVING), (False, NOT_SERVING)) * 50:
                    health.set("store", serving)
                    assert (await watch.read()).status == status
                assert await refused(stub)
            while await refused(stub):
                pass


async def refused(stub: health_pb2_grpc.HealthStub) -> bool:
    """Whether one more may not watch."""
    third = stub.Watch(request())
    try:
        await third.read()
    except grpc.aio.AioRpcError as error:
        return error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    third.cancel()
    return False


async def test_what_is_no_question_is_told_so() -> None:
    async with running(Health()) as (port, _), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        check: Any = channel.stream_stream("/grpc.health.v1.Health/Check")
        for sent, reason in (([b"\xff" * 8], "is no HealthCheckRequest"), ([], "the request is missing")):
            with pytest.raises(grpc.aio.AioRpcError, match=reason) as refused:
                await check(iter(sent)).read()
            assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_why_a_part_does_not_work_is_logged_when_that_is_news() -> None:
    with structlog.testing.capture_logs() as logs:
        health = Health("store")
        for reason in ("wrong password", "wrong password", "refused"):
            health.set("store", False, reason)
        health.set("store", True)
        health.set("store", True)
    assert [(each["reason"], each["log_level"]) for each in logs] == [
        ("wrong password", "warning"), ("refused", "warning"), ("", "info"),
    ]  # fmt: skip
