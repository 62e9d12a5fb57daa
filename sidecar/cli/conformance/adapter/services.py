"""A predictor and a scheduler that answer as the contract says, remember what they were told, and fail on demand."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import grpc

from sidecar.cli.conformance.adapter.engine import DIM
from sidecar.errors import Refused, abort
from trail.v1 import engine_pb2, predictor_pb2, predictor_pb2_grpc, scheduler_pb2, scheduler_pb2_grpc


@dataclass(eq=False)
class Stream:
    """One stream that the adapter opened, with everything it said on it."""

    context: Any
    messages: list[Any] = field(default_factory=list)
    over: bool = False
    ended: asyncio.Future[Refused] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def write(self, message: Any) -> None:
        """Says something to the adapter; one after the other."""
        async with self._turn:
            await self.context.write(message)

    def end(self, code: grpc.StatusCode, text: str) -> None:
        """Has the service end the stream with a status."""
        if not self.ended.done():
            self.ended.set_result(Refused(code, text))


@dataclass(eq=False)
class Service:
    """What both have in common. `refusals` are for the next streams, one each; `waits_s` is how long the adapter
    stayed away after each of them."""

    streams: list[Stream] = field(default_factory=list)
    refusals: deque[Refused] = field(default_factory=deque)
    waits_s: list[float] = field(default_factory=list)
    reading: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0
    _refused_at_s: float | None = None
    _server: grpc.aio.Server | None = None

    def __post_init__(self) -> None:
        self.reading.set()

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def now(self) -> Stream | None:
        """The stream that lives; None between two."""
        return self.streams[-1] if self.streams and not self.streams[-1].over else None

    async def start(self) -> None:
        """Listens; on the same port each time."""
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.http2.max_ping_strikes", 0)])
        self._register(server)
        self.port = server.add_insecure_port(f"127.0.0.1:{self.port}")
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Is gone at once, with its streams."""
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    def _register(self, server: grpc.aio.Server) -> None:
        raise NotImplementedError

    async def _answer(self, stream: Stream, message: Any) -> None:
        raise NotImplementedError

    async def _serve(self, context: Any) -> None:
        if self._refused_at_s is not None:
            self.waits_s.append(time.monotonic() - self._refused_at_s)
            self._refused_at_s = None
        if self.refusals:
            refusal = self.refusals.popleft()
            # Real services read `open` first; a status that comes before can be lost to a client that is still writing.
            await context.read()
            # Stamped before it goes out: what is measured is never less than what the adapter waited.
            self._refused_at_s = time.monotonic()
            await abort(context, refusal)
        stream = Stream(context)
        self.streams.append(stream)
        pump = asyncio.create_task(self._pump(stream))
        try:
            ends: set[asyncio.Future[Any]] = {pump, stream.ended}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not pump.done():
                raise stream.ended.result()
            await pump
        except Refused as error:
            await abort(context, error)
        finally:
            stream.over = True
            pump.cancel()

    async def _pump(self, stream: Stream) -> None:
        while True:
            await self.reading.wait()
            message = await stream.context.read()
            if message is grpc.aio.EOF:
                return
            stream.messages.append(message)
            if (message.WhichOneof("message") == "open") != (len(stream.messages) == 1):
                raise Refused(grpc.StatusCode.FAILED_PRECONDITION, "`open` comes first, and once")
            await self._answer(stream, message)


class Predictor(Service, predictor_pb2_grpc.PredictorServiceServicer):
    """Says of every row that ten tokens are still to come; with `refusing_rows`, that it could not be used."""

    refusing_rows = False

    async def GetModel(self, request: predictor_pb2.GetModelRequest, context: Any) -> predictor_pb2.GetModelResponse:
        return predictor_pb2.GetModelResponse(model=_MODEL)

    async def StreamPredict(self, _: Any, context: Any) -> None:  # type: ignore[override]
        await self._serve(context)

    def _register(self, server: grpc.aio.Server) -> None:
        predictor_pb2_grpc.add_PredictorServiceServicer_to_server(self, server)

    async def _answer(self, stream: Stream, message: predictor_pb2.StreamPredictRequest) -> None:
        if message.HasField("open"):
            handles = [declared.handle for declared in message.open.requests]
            ages = [declared.age_tokens for declared in message.open.requests]
            first = _predictions(message.open.epoch, 0, handles, ages)
            opened = predictor_pb2.PredictOpened(epoch=message.open.epoch, model=_MODEL, predictions=first)
            await stream.write(predictor_pb2.StreamPredictResponse(opened=opened))
            return
        step = message.step
        handles = [*step.prompts.handles, *step.decodes.handles]
        ages = [*(0 for _ in step.prompts.handles), *step.decodes.ages]
        if self.refusing_rows:
            answer = predictor_pb2.StepPredictions(epoch=step.epoch, step=step.step)
            for handle in handles:
                answer.errors.add(handle=handle, status=predictor_pb2.ROW_STATUS_NOT_FINITE, message="on purpose")
        else:
            answer = _predictions(step.epoch, step.step, handles, ages)
        await stream.write(predictor_pb2.StreamPredictResponse(predictions=answer))


_MODEL = predictor_pb2.Model(name="conformance", layers=[1], dim=DIM, dtype=engine_pb2.DTYPE_FLOAT32)


def _predictions(
    epoch: engine_pb2.Epoch, step: int, handles: list[int], ages: list[int]
) -> predictor_pb2.StepPredictions:
    ten = [10.0] * len(handles)
    stages = [predictor_pb2.STAGE_DECODE if age else predictor_pb2.STAGE_PREFILL for age in ages]
    return predictor_pb2.StepPredictions(
        epoch=epoch, step=step, handles=handles, ages=ages, stages=stages, mean=ten, median=ten, p10=ten, p90=ten,
        initial=ten,
    )  # fmt: skip


class Scheduler(Service, scheduler_pb2_grpc.SchedulerServiceServicer):
    """Plans nothing by itself: a check writes the plans that it needs."""

    plans = 0

    async def Coordinate(self, _: Any, context: Any) -> None:  # type: ignore[override]
        await self._serve(context)

    def _register(self, server: grpc.aio.Server) -> None:
        scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(self, server)

    async def _answer(self, stream: Stream, message: scheduler_pb2.CoordinateRequest) -> None:
        if message.HasField("open"):
            opened = scheduler_pb2.CoordinateOpened(epoch=message.open.epoch)
            await stream.write(scheduler_pb2.CoordinateResponse(opened=opened))

    async def plan(self, handles: list[int], *, ttl_ms: int = 60_000, more: bytes = b"", **fields: Any) -> None:
        """Sends a plan on the stream that lives, in this order unless `fields` say otherwise; `more` are serialised
        fields that this version does not know."""
        stream = self.now
        if stream is None:
            raise Refused(grpc.StatusCode.UNAVAILABLE, "no stream is open")
        self.plans += 1
        chosen: dict[str, Any] = {
            "epoch": stream.messages[0].open.epoch,
            "number": self.plans,
            "step": stream.messages[-1].delta.step,
            "ttl_ms": ttl_ms,
            "handles": handles,
            "ranks": [float(rank) for rank in range(len(handles))],
            "predicted_at_ages": [0] * len(handles),
            "policy": "conformance",
        }
        plan = scheduler_pb2.EnginePlan(**(chosen | fields))
        plan.MergeFromString(more)
        await stream.write(scheduler_pb2.CoordinateResponse(plan=plan))
