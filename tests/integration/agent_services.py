"""Small services that answer as the contract says and remember what they were told."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc

from trail.v1 import engine_pb2, predictor_pb2, predictor_pb2_grpc, scheduler_pb2, scheduler_pb2_grpc

DIM = 4
REMAINING = 40.0
"""What this predictor says of every request."""


@dataclass
class Predictor(predictor_pb2_grpc.PredictorServiceServicer):
    """Says 40 - age of every row."""

    opens: list[predictor_pb2.OpenPredict] = field(default_factory=list)
    steps: list[predictor_pb2.PredictStep] = field(default_factory=list)
    answering: asyncio.Event = field(default_factory=asyncio.Event)
    abort: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.answering.set()

    async def GetModel(self, request: predictor_pb2.GetModelRequest, context: Any) -> predictor_pb2.GetModelResponse:
        return predictor_pb2.GetModelResponse(
            model=predictor_pb2.Model(name="tiny", dim=DIM, dtype=engine_pb2.DTYPE_FLOAT16)
        )

    async def StreamPredict(
        self, requests: AsyncIterator[predictor_pb2.StreamPredictRequest], context: Any
    ) -> AsyncIterator[predictor_pb2.StreamPredictResponse]:
        async for request in requests:
            if request.HasField("open"):
                self.opens.append(request.open)
                opened = predictor_pb2.PredictOpened(epoch=request.open.epoch)
                yield predictor_pb2.StreamPredictResponse(opened=opened)
                continue
            self.steps.append(request.step)
            await self.answering.wait()
            if self.abort.is_set():
                self.abort.clear()
                await context.abort(grpc.StatusCode.ABORTED, "the store lost its owner: open again")
            yield predictor_pb2.StreamPredictResponse(predictions=_answer(request.step))


def _answer(step: predictor_pb2.PredictStep) -> predictor_pb2.StepPredictions:
    handles = [*step.prompts.handles, *step.decodes.handles]
    ages = [*(0 for _ in step.prompts.handles), *step.decodes.ages]
    means = [REMAINING - age for age in ages]
    return predictor_pb2.StepPredictions(
        epoch=step.epoch,
        step=step.step,
        handles=handles,
        ages=ages,
        stages=[predictor_pb2.STAGE_DECODE if age else predictor_pb2.STAGE_PREFILL for age in ages],
        mean=means,
        median=means,
        p10=means,
        p90=means,
        initial=[REMAINING] * len(handles),
    )


@dataclass
class Scheduler(scheduler_pb2_grpc.SchedulerServiceServicer):
    """Plans every living request in the order of its arrival, newest first, at each delta."""

    ttl_ms: int = 5_000
    foreign_epochs: bool = False
    deaf: bool = False
    """Goes on planning, by what it heard before."""
    replaying: bool = False
    """Sends its first plan again after each new one."""
    opens: list[scheduler_pb2.OpenCoordinate] = field(default_factory=list)
    deltas: list[scheduler_pb2.StateDelta] = field(default_factory=list)
    preemptions: list[scheduler_pb2.Preemption] = field(default_factory=list)

    async def Coordinate(
        self, requests: AsyncIterator[scheduler_pb2.CoordinateRequest], context: Any
    ) -> AsyncIterator[scheduler_pb2.CoordinateResponse]:
        living: dict[int, int] = {}
        number = step = 0
        first: scheduler_pb2.EnginePlan | None = None
        async for request in requests:
            if request.HasField("open"):
                self.opens.append(request.open)
                epoch = request.open.epoch
                living = {declared.handle: declared.age_tokens for declared in request.open.requests}
                yield scheduler_pb2.CoordinateResponse(opened=scheduler_pb2.CoordinateOpened(epoch=epoch))
            else:
                delta = request.delta
                self.deltas.append(delta)
                step = step if self.deaf else delta.step
                living |= {declared.handle: declared.age_tokens for declared in delta.arrived}
                living |= dict(zip(delta.running.handles, delta.running.ages, strict=True))
                for outcome in delta.finished:
                    living.pop(outcome.handle, None)
            number += 1
            plan = self._plan(epoch, number, step, living)
            yield scheduler_pb2.CoordinateResponse(plan=plan)
            if self.replaying and first is not None:
                yield scheduler_pb2.CoordinateResponse(plan=first)
            first = first or plan

    def _plan(
        self, epoch: engine_pb2.Epoch, number: int, step: int, living: dict[int, int]
    ) -> scheduler_pb2.EnginePlan:
        order = list(reversed(living))
        return scheduler_pb2.EnginePlan(
            epoch=engine_pb2.Epoch(incarnation=1, counter=1) if self.foreign_epochs else epoch,
            number=number,
            step=step,
            ttl_ms=self.ttl_ms,
            handles=order,
            ranks=[float(rank) for rank in range(len(order))],
            predicted_at_ages=[max(living[handle] - 1, 0) for handle in order],
            preemptions=self.preemptions,
            policy="test",
        )


class Served:
    """One servicer on a port of its own, which stays the same when it is stopped and started again."""

    def __init__(self, servicer: Predictor | Scheduler) -> None:
        self.servicer = servicer
        self.port = 0
        self._server: grpc.aio.Server | None = None

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.http2.max_ping_strikes", 0)])
        if isinstance(self.servicer, Predictor):
            predictor_pb2_grpc.add_PredictorServiceServicer_to_server(self.servicer, server)
        else:
            scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(self.servicer, server)
        self.port = server.add_insecure_port(f"127.0.0.1:{self.port}")
        await server.start()
        self._server = server

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None
