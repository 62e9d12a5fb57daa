"""The life of one bidirectional stream: open, exchange, break, open again."""

import asyncio
import random
import time
from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar, cast

import grpc
import structlog

from engine_adapter.agent.backoff import Backoff
from engine_adapter.agent.epochs import EpochMint
from engine_adapter.agent.settings import AgentSettings
from sidecar import stream_age
from sidecar.dial import DialError
from sidecar.errors import pushback_s
from sidecar.stopping import first_of
from sidecar.waiting import within
from trail.v1 import engine_pb2

Request = TypeVar("Request")
Response = TypeVar("Response")

SETTLED_S = 1.0
"""A stream that has lived this long was a good one: the next wait starts from the shortest again."""


class StreamEnded(Exception):
    """The other side ended the stream, or stopped answering."""


class _Reopen(Exception):
    """This side wants another stream."""


class _Moved(Exception):
    """The stream was as old as the service lets it become, and ended in good order."""


class Link(ABC, Generic[Request, Response]):
    """Keeps a stream to one service open, under a new epoch each time.

    A stream is opened only while ``ready`` is set: the first message names every living request, so they must be known.
    """

    name: str

    def __init__(self, settings: AgentSettings, epochs: EpochMint, ready: asyncio.Event) -> None:
        self._settings = settings
        self._epochs = epochs
        self._ready = ready
        self._wake = asyncio.Event()
        self._reopen = asyncio.Event()
        self._backoff = Backoff(settings.reconnect_initial_ms / 1000, settings.reconnect_max_ms / 1000)
        self._log = structlog.get_logger(self.name).bind(link=self.name)
        self._last_fault = ""
        self._old = asyncio.Event()
        self.connected = False

    @abstractmethod
    def _call(self) -> "grpc.aio.StreamStreamCall[Request, Response]":
        """Starts the call."""

    @abstractmethod
    async def _first(self, epoch: engine_pb2.Epoch) -> Request:
        """The opening message; from now on, what happens is collected for this stream."""

    @abstractmethod
    def _opened(self, response: Response) -> None:
        """The answer to the opening message."""

    @abstractmethod
    def _received(self, response: Response) -> None:
        """Any later answer."""

    @abstractmethod
    async def _send_waiting(self, call: "grpc.aio.StreamStreamCall[Request, Response]") -> None:
        """Sends what has been collected."""

    @abstractmethod
    def _closed(self) -> None:
        """The stream is gone, for whatever reason."""

    @abstractmethod
    def _moved(self) -> None:
        """The stream ended in good order, and the next follows at once: what waits is for that one."""

    def wake(self) -> None:
        """There may be something to send."""
        self._wake.set()

    def reopen(self) -> None:
        """Ends the present stream; another one follows as soon as ``ready`` is set."""
        self._reopen.set()

    async def run(self) -> None:
        """Keeps the stream open until cancelled."""
        while True:
            await self._ready.wait()
            self._reopen.clear()
            started_s = time.monotonic()
            try:
                await self._session()
            except _Moved:
                self._log.info("stream moves", lived_s=round(time.monotonic() - started_s, 1))
            except (grpc.RpcError, TimeoutError, StreamEnded, _Reopen, DialError, asyncio.InvalidStateError) as error:
                await self._pause(error, time.monotonic() - started_s)

    async def _session(self) -> None:
        call, moved = self._call(), False
        self._old.clear()
        try:
            async with asyncio.timeout(self._settings.call_timeout_ms / 1000):
                await call.write(await self._first(self._epochs.next()))
                response = await _read(call)
            self._opened(response)
            self.connected, self._last_fault = True, ""
            self._log.info("stream open", incarnation=self._epochs.incarnation)
            age_s = stream_age.announced_s(await call.initial_metadata())
            await first_of(self._receive(call), self._send(call), self._until_reopen(), self._until_old(age_s))
        except asyncio.InvalidStateError:
            raise await _ended_as(call) from None
        except StreamEnded:
            moved = self._old.is_set()
            if not moved:
                raise
            raise _Moved from None
        finally:
            self.connected = False
            call.cancel()
            if moved:
                self._moved()
            else:
                self._closed()

    async def _receive(self, call: "grpc.aio.StreamStreamCall[Request, Response]") -> None:
        while True:
            self._received(await _read(call))

    async def _send(self, call: "grpc.aio.StreamStreamCall[Request, Response]") -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._send_waiting(call)
            if self._old.is_set():
                await call.done_writing()
                # The service has read all when it ends the stream, which is seen where answers are.
                await asyncio.sleep(self._settings.ack_timeout_ms / 1000)
                raise TimeoutError

    async def _until_old(self, age_s: float | None) -> None:
        """Has the stream end in good order once it is nearly as old as it may become; not all agents at one moment."""
        if age_s is not None:
            await asyncio.sleep(age_s * random.uniform(0.9, 1.0))  # noqa: S311 - jitter, not a secret
            self._old.set()
            self.wake()
        await asyncio.Event().wait()

    async def _until_reopen(self) -> None:
        await self._reopen.wait()
        raise _Reopen

    async def _pause(self, error: Exception, lived_s: float) -> None:
        """Waits before the next try: as long as the service asks, or longer each time; not at all where the service
        or this side wants another stream at once."""
        if lived_s >= SETTLED_S:
            self._backoff.reset()
        if isinstance(error, _Reopen):
            return
        self._report(error)
        aborted = isinstance(error, grpc.aio.AioRpcError) and error.code() is grpc.StatusCode.ABORTED
        if aborted and lived_s >= SETTLED_S:
            return
        # A service that is full is left alone for as long as it says, whatever happens here meanwhile.
        await asyncio.sleep(_asked_s(error))
        await within(self._backoff.next_s(), self._reopen)

    def _report(self, error: Exception) -> None:
        """Logs a fault once, however often it comes in a row."""
        fault = _text(error)
        if fault != self._last_fault:
            self._log.warning("stream down", reason=fault)
        self._last_fault = fault


async def _ended_as(call: "grpc.aio.StreamStreamCall[Any, Any]") -> Exception:
    """The status of a call that had ended before it was written to, which says only that."""
    code, details = await call.code(), await call.details()
    return grpc.aio.AioRpcError(code, await call.initial_metadata(), await call.trailing_metadata(), details)


def _asked_s(error: Exception) -> float:
    return pushback_s(error.trailing_metadata() or ()) if isinstance(error, grpc.aio.AioRpcError) else 0.0


def _text(error: Exception) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return str(error) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)


async def _read(call: "grpc.aio.StreamStreamCall[Any, Response]") -> Response:
    """The next answer; raises StreamEnded where there is none."""
    try:
        response = await call.read()
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # A write whose time was up cancelled the call, and not anybody this task.
        raise StreamEnded("the stream was given up") from None
    if response is grpc.aio.EOF:
        raise StreamEnded("the service ended the stream")
    return cast(Response, response)
