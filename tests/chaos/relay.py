"""A man in the middle of a stream: it passes messages on, and may change, repeat, reorder or invent some."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from tests.chaos.proxy import FaultProxy, Loop, first_of
from trail.v1 import predictor_pb2, predictor_pb2_grpc, scheduler_pb2_grpc

Change = Callable[[Any], list[Any]]
"""A message that came, and what is passed on in its place."""


def unchanged(message: Any) -> list[Any]:
    return [message]


class Relay:
    """Serves both services' streams in the place of ``target``; ``up`` changes what the agent says, ``down`` what it is
    told. Both can be exchanged while streams are open."""

    def __init__(self, loop: Loop, target: str) -> None:
        self._loop = loop
        self.up: Change = unchanged
        self.down: Change = unchanged
        self.port = loop.run(self._start(target))

    def close(self) -> None:
        self._loop.run(self._stop())

    async def _start(self, target: str) -> int:
        self._channel = grpc.aio.insecure_channel(target)
        self._server = grpc.aio.server(options=[("grpc.http2.max_ping_strikes", 0)])
        predictor_pb2_grpc.add_PredictorServiceServicer_to_server(
            _Predictor(self),  # type: ignore[abstract]
            self._server,
        )
        scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(
            _Scheduler(self),  # type: ignore[abstract]
            self._server,
        )
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return int(port)

    async def _stop(self) -> None:
        await self._server.stop(None)
        await self._channel.close()

    async def pass_on(self, call: Any, context: Any) -> None:
        """One stream, from its first message to its end."""
        try:
            await first_of(self._ask(context, call), self._answer(call, context))
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details())
        finally:
            call.cancel()

    async def _ask(self, context: Any, call: Any) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            for each in self.up(message):
                await call.write(each)
        await call.done_writing()
        await asyncio.Event().wait()

    async def _answer(self, call: Any, context: Any) -> None:
        while (message := await call.read()) is not grpc.aio.EOF:
            for each in self.down(message):
                await context.write(each)

    @property
    def channel(self) -> grpc.aio.Channel:
        return self._channel


class _Predictor(predictor_pb2_grpc.PredictorServiceServicer):
    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._stub = predictor_pb2_grpc.PredictorServiceStub(relay.channel)

    async def GetModel(self, request: predictor_pb2.GetModelRequest, context: Any) -> Any:
        return await self._stub.GetModel(request)

    async def StreamPredict(self, _: Any, context: Any) -> None:  # type: ignore[override]
        await self._relay.pass_on(self._stub.StreamPredict(), context)


class _Scheduler(scheduler_pb2_grpc.SchedulerServiceServicer):
    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._stub = scheduler_pb2_grpc.SchedulerServiceStub(relay.channel)

    async def Coordinate(self, _: Any, context: Any) -> None:  # type: ignore[override]
        await self._relay.pass_on(self._stub.Coordinate(), context)


@contextlib.contextmanager
def relayed(loop: Loop, link: FaultProxy) -> Iterator[Relay]:
    """So long the link leads through a relay."""
    direct = link.upstream
    relay = Relay(loop, f"127.0.0.1:{direct}")
    try:
        link.upstream = relay.port
        link.reset()
        yield relay
    finally:
        link.upstream = direct
        link.reset()
        relay.close()
