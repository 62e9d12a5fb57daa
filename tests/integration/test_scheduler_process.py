"""The scheduler as a process of its own."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from tests.conftest import Valkey
from tests.integration.scheduler_engine import engine
from tests.patience import PATIENCE_S


def command(port: int, valkey: Valkey) -> list[str]:
    return [sys.executable, "-m", "scheduler_service.main", "--port", str(port), "--redis-url", valkey.url]


@asynccontextmanager
async def process(port: int, valkey: Valkey) -> AsyncIterator[asyncio.subprocess.Process]:
    child = await asyncio.create_subprocess_exec(
        *command(port, valkey), stderr=asyncio.subprocess.PIPE, env={**os.environ}
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


async def log_line(child: asyncio.subprocess.Process, event: str) -> dict[str, object]:
    while line := await asyncio.wait_for(child.stderr.readline(), PATIENCE_S):
        entry = json.loads(line)
        if entry.get("event") == event:
            return entry
    raise AssertionError(f"ended without {event!r}")


async def test_it_says_when_it_is_ready_and_ends_its_streams_cleanly_on_sigterm(valkey: Valkey):
    async with process(0, valkey) as child:
        ready = await log_line(child, "ready")
        async with (
            grpc.aio.insecure_channel(str(ready["address"])) as channel,
            engine(channel, "engine-process", handles=(1,)) as connected,
        ):
            child.send_signal(signal.SIGTERM)
            assert await connected.code() is grpc.StatusCode.UNAVAILABLE
        rest = await asyncio.wait_for(child.stderr.read(), PATIENCE_S)
        assert await child.wait() == 0
        assert b"Traceback" not in rest


async def test_a_port_that_is_taken_is_told_in_one_line(valkey: Valkey):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        async with process(taken.getsockname()[1], valkey) as child:
            told = (await asyncio.wait_for(child.stderr.read(), PATIENCE_S)).decode().strip()
            assert await child.wait() != 0
    assert "cannot listen" in told.splitlines()[-1]
    assert "Traceback" not in told
