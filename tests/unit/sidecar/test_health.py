"""What probes and strangers are told of a service's health."""

import asyncio

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar import health as health_module
from sidecar.health import Health
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
