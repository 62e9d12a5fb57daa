"""A client's side of both services, and how an answer is told from a refusal."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc

from sidecar import targets
from sidecar.cli.conformance.verdict import Broken
from sidecar.dial import of_environment
from sidecar.errors import PUSHBACK_KEY
from trail.v1 import engine_pb2, predictor_pb2, predictor_pb2_grpc, scheduler_pb2_grpc

LARGEST_MESSAGE_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """What the service was told to accept."""

    max_rows: int
    max_requests: int


@dataclass(frozen=True)
class Refusal:
    """The status that ended a call."""

    code: grpc.StatusCode
    text: str
    pushback: str | None

    def __str__(self) -> str:
        return f"{self.code.name}: {self.text}"


class _Identified:
    """A stub whose calls say who we are, as the environment has it."""

    def __init__(self, stub: object) -> None:
        self._stub, self._metadata = stub, of_environment().metadata()

    def __getattr__(self, method: str) -> Any:
        return functools.partial(getattr(self._stub, method), metadata=self._metadata)


class Site:
    """One service under test. Engine ids are drawn anew, so that nobody's engine is disturbed."""

    def __init__(self, channel: grpc.aio.Channel, timeout_s: float, limits: Limits) -> None:
        self.timeout_s, self.limits = timeout_s, limits
        self.predictor = _Identified(predictor_pb2_grpc.PredictorServiceStub(channel))
        self.scheduler = _Identified(scheduler_pb2_grpc.SchedulerServiceStub(channel))
        self.engine_id = f"conformance-{secrets.token_hex(4)}"
        self.incarnation = secrets.randbits(63) or 1
        self.model = predictor_pb2.Model()

    def epoch(self, counter: int = 1) -> engine_pb2.Epoch:
        return engine_pb2.Epoch(incarnation=self.incarnation, counter=counter)

    async def within(self, what: str, work: Awaitable[Any]) -> Any:
        """The result. Raises Broken where it does not come in time."""
        try:
            async with asyncio.timeout(self.timeout_s):
                return await work
        except TimeoutError:
            raise Broken(what, f"nothing in {self.timeout_s:g} s") from None

    async def refused(
        self, what: str, call: Awaitable[Any], code: grpc.StatusCode, *words: str, field: str = ""
    ) -> None:
        """A unary call that must fail."""
        try:
            answer = await self.within(what, call)
        except grpc.aio.AioRpcError as error:
            check_refusal(what, _refusal(error), code, *words, field=field)
        else:
            raise Broken(f"{code.name} for {what}", f"the answer {str(answer).strip()[:200]!r}")


class Stream:
    """One bidirectional stream; everything it says is asked for one after the other."""

    def __init__(self, site: Site, call: Any) -> None:
        self._site, self._call = site, call

    async def say(self, message: Any) -> None:
        """Says something; that the stream has ended is seen where its answer is read."""
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self._site.within("a message is read", self._call.write(message))

    async def hear(self, what: str) -> Any:
        """The next answer. Raises Broken where the stream ends instead, or says nothing."""
        answer = await self._site.within(what, self._read())
        if answer is grpc.aio.EOF:
            raise Broken(what, f"the stream ended with {await self.status()}")
        return answer

    async def refused(self, what: str, code: grpc.StatusCode, *words: str, field: str = "") -> None:
        """Reads to the end, which must be this status with these words in its text; `field` before its colon."""
        answer, heard = None, "nothing"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._site.timeout_s):
                while (answer := await self._read()) is not grpc.aio.EOF:
                    heard = f"`{answer.WhichOneof('message')}`"
        if answer is not grpc.aio.EOF:
            seen = f"the stream goes on; in {self._site.timeout_s:g} s it answered {heard}"
            raise Broken(f"{code.name} for {what}", seen)
        check_refusal(what, await self.status(), code, *words, field=field)

    async def status(self) -> Refusal:
        """How the stream ended."""
        trailing = dict(await self._call.trailing_metadata() or ())
        return Refusal(await self._call.code(), await self._call.details() or "", trailing.get(PUSHBACK_KEY))

    def close(self) -> None:
        self._call.cancel()

    async def _read(self) -> Any:
        try:
            return await self._call.read()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return grpc.aio.EOF


def check_refusal(what: str, found: Refusal, code: grpc.StatusCode, *words: str, field: str = "") -> None:
    """Raises Broken where the status is another, its text lacks one of the words, or does not begin with the field."""
    path = found.text.partition(":")[0]
    if found.code is not code or field not in path or any(word not in found.text for word in words):
        naming = f", naming {' and '.join(words)}" if words else ""
        beginning = f", its text beginning with the path of {field}" if field else ""
        raise Broken(f"{code.name} for {what}{naming}{beginning}", str(found))
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and found.pushback is None:
        raise Broken(f"{PUSHBACK_KEY} in the trailing metadata, for {what}", "none")


def _refusal(error: grpc.aio.AioRpcError) -> Refusal:
    trailing = {str(key): str(value) for key, value in error.trailing_metadata() or ()}
    return Refusal(error.code(), error.details() or "", trailing.get(PUSHBACK_KEY))


def connect(target: str) -> grpc.aio.Channel:
    """A channel on which the service's limits show, and not the client's. Raises DialError."""
    size = ("grpc.max_send_message_length", LARGEST_MESSAGE_BYTES)
    return of_environment().aio_channel(targets.target(target), [size])


Check = Callable[[Site], Awaitable[None]]


def declaration(handle: int, **fields: Any) -> engine_pb2.RequestDeclaration:
    """A request of three prompt tokens."""
    usual: dict[str, Any] = {"request_id": f"request-{handle}", "prompt_token_ids": [5, 6, 7], "prompt_tokens": 3}
    return engine_pb2.RequestDeclaration(handle=handle, **(usual | fields))
