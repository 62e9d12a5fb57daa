"""``python -m benchmarks.virtual_engines CROWD``: engines by the thousand that speak the contract, without an engine.

Each has a connection and a stream of its own, one step in flight, and ships what is newest when an answer has come.
One that is refused comes back as an agent does. A report a line every half second, until standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import uvloop

from engine_adapter.agent.backoff import Backoff
from engine_adapter.agent.epochs import EpochMint
from engine_adapter.agent.settings import AgentSettings
from sidecar import vectors
from sidecar.errors import pushback_s
from sidecar.stopping import until_told
from sidecar.waiting import within
from trail.v1 import engine_pb2, predictor_pb2, predictor_pb2_grpc, scheduler_pb2, scheduler_pb2_grpc

REPORT_S = 0.5
PROMPT, ABORTED_PROMPT = tuple(range(64)), tuple(range(16))
OUTPUT_TOKENS = 200
"""Of every request: one in so many rows is a request's last."""
_AGENT = AgentSettings()
_ACK_S, _CALL_S = _AGENT.ack_timeout_ms / 1000, _AGENT.call_timeout_ms / 1000
_OPTIONS = [("grpc.use_local_subchannel_pool", 1)]
_SMALL_WINDOW = [*_OPTIONS, ("grpc.http2.bdp_probe", 0)]
"""Otherwise who does not read lets some megabytes lie in his own memory before the service is held up."""


@dataclass(frozen=True)
class Crowd:
    """`engines` of `requests` running requests, a step each `step_ms` (0: as fast as they are answered), that start
    within `spread_s`; `slow` more read no answer but the first; `storms` more do nothing but declare and abort
    `aborts` requests at both services, `burst` at a time."""

    predictor: str
    scheduler: str
    prefix: str
    engines: int
    dim: int
    requests: int = 32
    step_ms: float = 10.0
    spread_s: float = 0.0
    slow: int = 0
    slow_requests: int = 128
    storms: int = 0
    aborts: int = 0
    burst: int = 10


class Tally:
    """What happened: counts from the beginning, latencies since the last report."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.latencies_ms: list[float] = []
        self.serving: set[str] = set()

    def report(self) -> None:
        latencies, self.latencies_ms = self.latencies_ms, []
        told = {"counts": self.counts, "latencies_ms": latencies, "serving": sorted(self.serving)}
        print(json.dumps(told), flush=True)


class _Lost(Exception):
    """No answer in time."""


class PredictorStream:
    """One StreamPredict call of an engine."""

    def __init__(self, channel: grpc.aio.Channel, epoch: engine_pb2.Epoch) -> None:
        self.call: Any = predictor_pb2_grpc.PredictorServiceStub(channel).StreamPredict()
        self.epoch = epoch
        self._step = 0

    async def open(self, engine_id: str, dim: int, requests: list[engine_pb2.RequestDeclaration]) -> None:
        """Raises AioRpcError or _Lost."""
        opening = predictor_pb2.OpenPredict(
            engine_id=engine_id, epoch=self.epoch, dtype=engine_pb2.DTYPE_FLOAT16, dim=dim, requests=requests
        )
        await self._within(_CALL_S, self.call.write(predictor_pb2.StreamPredictRequest(open=opening)))
        await self._within(_CALL_S, self.read())

    async def ask(self, **step: Any) -> None:
        """One step and its answer. Raises AioRpcError or _Lost."""
        await self._within(_ACK_S, self.write(**step))
        await self._within(_ACK_S, self.read())

    async def write(self, **step: Any) -> None:
        self._step += 1
        message = predictor_pb2.PredictStep(epoch=self.epoch, step=self._step, **step)
        await self.call.write(predictor_pb2.StreamPredictRequest(step=message))

    async def read(self) -> Any:
        answer = await self.call.read()
        if answer is grpc.aio.EOF:
            raise await _status(self.call)
        return answer

    async def _within(self, timeout_s: float, doing: Awaitable[object]) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await doing
        except TimeoutError:
            raise _Lost from None
        except asyncio.InvalidStateError:
            raise await _status(self.call) from None


class VirtualEngine:
    """Comes back for ever: as long as it is asked to stay away, and longer each time."""

    def __init__(self, engine_id: str, crowd: Crowd, tally: Tally, serve: Callable[[VirtualEngine], Awaitable[None]]):
        self.engine_id, self.crowd, self.tally = engine_id, crowd, tally
        self.epochs = EpochMint()
        self._serve = serve
        self._backoff = Backoff(_AGENT.reconnect_initial_ms / 1000, _AGENT.reconnect_max_ms / 1000)
        self.stream: PredictorStream
        self.aborted = 0
        self._handle = 0

    async def run(self, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        options = _SMALL_WINDOW if self._serve is never_read else _OPTIONS
        async with grpc.aio.insecure_channel(self.crowd.predictor, options) as channel:
            while True:
                self.stream = PredictorStream(channel, self.epochs.next())
                try:
                    await self._serve(self)
                    return
                except grpc.aio.AioRpcError as error:
                    await self._away(error.code().name.lower(), pushback_s(error.trailing_metadata() or ()))
                except _Lost:
                    await self._away("lost", 0.0)

    async def open(self, requests: int) -> list[engine_pb2.RequestDeclaration]:
        """A stream with so many new requests."""
        living = [self.declaration() for _ in range(requests)]
        await self.stream.open(self.engine_id, self.crowd.dim, living)
        self.tally.counts["opened"] += 1
        self.tally.serving.add(self.engine_id)
        self._backoff.reset()
        return living

    def declaration(self, prompt: Sequence[int] = PROMPT) -> engine_pb2.RequestDeclaration:
        """A new request."""
        self._handle += 1
        return engine_pb2.RequestDeclaration(
            handle=self._handle,
            request_id=f"{self.engine_id}-{self._handle}",
            prompt_token_ids=prompt,
            prompt_tokens=len(prompt),
            arrival_time_s=time.time(),
        )

    async def _away(self, why: str, asked_s: float) -> None:
        self.stream.call.cancel()
        was_served = self.engine_id in self.tally.serving
        self.tally.serving.discard(self.engine_id)
        self.tally.counts[f"{'ended' if was_served else 'refused'}_{why}"] += 1
        await asyncio.sleep(asked_s + self._backoff.next_s())


async def step_for_ever(engine: VirtualEngine) -> None:
    """A batch of requests: each that has all its tokens is followed by another one."""
    crowd, tally = engine.crowd, engine.tally
    handles = [request.handle for request in await engine.open(crowd.requests)]
    rows = _rows(crowd.requests, crowd.dim)
    ages = np.linspace(0, OUTPUT_TOKENS - 1, crowd.requests).astype(np.int64)
    due_s, step_s = time.perf_counter(), crowd.step_ms / 1000
    while True:
        await asyncio.sleep(max(due_s - time.perf_counter(), 0.0))
        # Steps that nobody could be told of have passed as well.
        passed = 1 + (int((time.perf_counter() - due_s) / step_s) if step_s else 0)
        due_s = max(due_s + passed * step_s, time.perf_counter())
        ages += passed
        ended = np.flatnonzero(ages > OUTPUT_TOKENS).tolist()
        finished = [handles[index] for index in ended]
        declared = [engine.declaration() for _ in ended]
        for index, request in zip(ended, declared, strict=True):
            handles[index], ages[index] = request.handle, 1
        begun_s = time.perf_counter()
        decodes = predictor_pb2.DecodeRows(handles=handles, ages=ages.tolist(), last=rows)
        await engine.stream.ask(declared=declared, finished=finished, decodes=decodes)
        tally.latencies_ms.append((time.perf_counter() - begun_s) * 1000)
        tally.counts["steps"] += 1
        tally.counts["rows"] += crowd.requests


async def never_read(engine: VirtualEngine) -> None:
    """Writes as long as it is let, and reads nothing. Ends once the service does not take any more."""
    crowd = engine.crowd
    handles = [request.handle for request in await engine.open(crowd.slow_requests)]
    rows = _rows(crowd.slow_requests, crowd.dim)
    age = 0
    while True:
        age += 1
        decodes = predictor_pb2.DecodeRows(handles=handles, ages=[age] * len(handles), last=rows)
        writing = asyncio.ensure_future(engine.stream.write(decodes=decodes))
        ended = asyncio.ensure_future(engine.stream.call.code())
        await asyncio.wait([writing, ended], return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            writing.cancel()
            raise await _status(engine.stream.call)
        ended.cancel()
        await writing
        engine.tally.counts["unread"] += 1


async def abort_all(engine: VirtualEngine) -> None:
    """Requests come and are aborted, at both services, until there have been enough; then the streams stay open."""
    crowd, tally = engine.crowd, engine.tally
    await engine.open(0)
    async with grpc.aio.insecure_channel(crowd.scheduler, _OPTIONS) as channel:
        call: Any = scheduler_pb2_grpc.SchedulerServiceStub(channel).Coordinate()
        epoch = engine.epochs.next()
        capacity = scheduler_pb2.EngineCapacity(max_running_requests=crowd.burst, step_token_budget=2048)
        opening = scheduler_pb2.OpenCoordinate(engine_id=engine.engine_id, epoch=epoch, capacity=capacity)
        await call.write(scheduler_pb2.CoordinateRequest(open=opening))
        plans = asyncio.create_task(_count_plans(call, tally))
        try:
            for burst in range((crowd.aborts // crowd.storms - engine.aborted) // crowd.burst):
                declared = [engine.declaration(ABORTED_PROMPT) for _ in range(crowd.burst)]
                handles = [request.handle for request in declared]
                await engine.stream.ask(declared=declared)
                await call.write(_delta(epoch, 2 * burst + 1, arrived=declared))
                await engine.stream.ask(finished=handles)
                aborted = [
                    scheduler_pb2.Outcome(handle=handle, reason=scheduler_pb2.FINISH_REASON_ABORT) for handle in handles
                ]
                await call.write(_delta(epoch, 2 * burst + 2, finished=aborted))
                engine.aborted += len(handles)
                tally.counts["aborted"] += len(handles)
                await asyncio.sleep(crowd.step_ms / 1000)
            tally.counts["storms_over"] += 1
            await asyncio.Event().wait()
        finally:
            plans.cancel()


async def _count_plans(call: Any, tally: Tally) -> None:
    async for _ in call:
        tally.counts["plans"] += 1


def _delta(epoch: engine_pb2.Epoch, step: int, **fields: Any) -> scheduler_pb2.CoordinateRequest:
    return scheduler_pb2.CoordinateRequest(delta=scheduler_pb2.StateDelta(epoch=epoch, step=step, **fields))


def _rows(rows: int, dim: int) -> engine_pb2.Vectors:
    noise = np.random.default_rng(0).standard_normal((rows, dim)).astype(np.float16)
    return vectors.pack(noise, engine_pb2.DTYPE_FLOAT16)


async def _status(call: Any) -> grpc.aio.AioRpcError:
    """With which the other side ended the call."""
    code, details = await call.code(), await call.details()
    return grpc.aio.AioRpcError(code, await call.initial_metadata(), await call.trailing_metadata(), details)


async def run(crowd: Crowd) -> None:
    """Until standard input ends."""
    stop, tally = asyncio.Event(), Tally()
    kinds = ((crowd.engines, step_for_ever), (crowd.slow, never_read), (crowd.storms, abort_all))
    engines = [
        VirtualEngine(f"{crowd.prefix}-{serve.__name__}-{number}", crowd, tally, serve).run(
            crowd.spread_s * number / count
        )
        for count, serve in kinds
        for number in range(count)
    ]
    with until_told(stop, exit_with_parent=True):
        tasks = [asyncio.create_task(engine) for engine in engines]
        while not stop.is_set():
            tally.report()
            await within(REPORT_S, stop)
            for task in tasks:
                if task.done():
                    task.result()
        tally.report()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    uvloop.run(run(Crowd(**json.loads(sys.argv[1]))))
