"""A proxy between two parts, which can be slow, narrow, cut one way or both, and can end connections without a word.

What a cut holds back comes through once it is over, as TCP would send it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sidecar.stopping import first_of

CHUNK_BYTES = 65_536
WAITING_CHUNKS = 64
T = TypeVar("T")

Address = int | Path
"""A TCP port of this machine, or a Unix socket."""


@dataclass(slots=True)
class Conditions:
    """Of a link, each way; "up" is from whoever connected."""

    delay_s: float = 0.0
    jitter_s: float = 0.0
    bytes_per_s: float = 0.0
    """0: no limit."""
    up: bool = True
    down: bool = True
    accepting: bool = True


class Loop:
    """An event loop in a thread, for all proxies and relays."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs it there, and waits for its result."""
        future: Future[T] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        return future.result(60)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


class FaultProxy:
    """Listens at ``address`` (port 0: any free one) and passes on to ``upstream``, as ``conditions`` allow."""

    def __init__(self, loop: Loop, address: Address, upstream: Address) -> None:
        self._loop = loop
        self.upstream, self.conditions = upstream, Conditions()
        self._open: set[asyncio.StreamWriter] = set()
        self.address = loop.run(self._listen(address))

    @contextlib.contextmanager
    def with_(self, **changed: Any) -> Iterator[None]:
        """So long under these conditions."""
        self.conditions = Conditions(**changed)
        try:
            yield
        finally:
            self.conditions = Conditions()

    def reset(self) -> None:
        """Ends all connections, with a reset where they are TCP."""
        self._loop.run(self._abort())

    def close(self) -> None:
        self._loop.run(self._close())

    async def _listen(self, address: Address) -> Address:
        if isinstance(address, Path):
            self._server: asyncio.Server = await asyncio.start_unix_server(self._serve, address)
            return address
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", address)
        return int(self._server.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection. Either side that ends it ends it for the other."""
        self._open.add(writer)
        try:
            if not self.conditions.accepting:
                return
            their_reader, their_writer = await _connect(self.upstream)
            self._open.add(their_writer)
            try:
                await first_of(
                    self._pass(reader, their_writer, lambda: self.conditions.up),
                    self._pass(their_reader, writer, lambda: self.conditions.down),
                )
            finally:
                self._drop(their_writer)
        except OSError:
            pass
        finally:
            self._drop(writer)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_open: Callable[[], bool]
    ) -> None:
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(WAITING_CHUNKS)

        async def receive() -> None:
            while data := await reader.read(CHUNK_BYTES):
                late_s = self.conditions.delay_s + random.uniform(0, self.conditions.jitter_s)
                await waiting.put((time.monotonic() + late_s, data))
            await waiting.put((0.0, b""))

        async def send() -> None:
            while True:
                due_s, data = await waiting.get()
                await asyncio.sleep(max(due_s - time.monotonic(), 0))
                while not is_open():  # noqa: ASYNC110 - a test's switch, thrown from another thread
                    await asyncio.sleep(0.005)
                if not data:
                    return
                writer.write(data)
                await writer.drain()
                if self.conditions.bytes_per_s:
                    await asyncio.sleep(len(data) / self.conditions.bytes_per_s)

        receiving = asyncio.create_task(receive())
        try:
            await first_of(send(), _forever_after(receiving))
        finally:
            receiving.cancel()

    def _drop(self, writer: asyncio.StreamWriter) -> None:
        self._open.discard(writer)
        writer.transport.abort()

    async def _abort(self) -> None:
        for writer in tuple(self._open):
            self._drop(writer)

    async def _close(self) -> None:
        self._server.close()
        await self._abort()


async def _connect(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if isinstance(address, Path):
        return await asyncio.open_unix_connection(address)
    return await asyncio.open_connection("127.0.0.1", address)


async def _forever_after(task: asyncio.Task[None]) -> None:
    """Raises what the task raises; does not end with it."""
    await task
    await asyncio.Event().wait()
