"""A small adapter that keeps the contract, written so that each of its habits can be taken away."""

import asyncio
import json
import os
import secrets
import sys
import time
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import grpc
import numpy as np

from sidecar import vectors
from trail.v1 import engine_pb2, predictor_pb2, predictor_pb2_grpc, scheduler_pb2, scheduler_pb2_grpc

FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 2.0
PUSHBACK_KEY = "grpc-retry-pushback-ms"


class Ended(Exception):
    """The service ended the stream."""


@dataclass(eq=False)
class Request:
    said: dict[str, Any]
    handle: int
    age: int = 0


@dataclass
class Plan:
    order: list[int] = field(default_factory=list)
    preemptions: list[scheduler_pb2.Preemption] = field(default_factory=list)
    expires_s: float = 0.0


class Link:
    """One stream: opened, kept, lost, opened again."""

    def __init__(self, adapter: "Adapter") -> None:
        self.adapter = adapter
        self.collecting = False
        self.wake = asyncio.Event()
        self.steps = count(1)
        self.epoch = engine_pb2.Epoch()
        self.clear()

    def clear(self) -> None:
        self.declared: list[Request] = []
        self.reused: list[Request] = []
        """Those whose id is still among the finished: for the message after that."""
        self.finished: list[tuple[Request, dict[str, Any]]] = []

    def taken(self) -> None:
        """All but the reused are in a message."""
        reused = self.reused
        self.clear()
        if reused:
            self.declared = reused
            self.wake.set()

    async def run(self) -> None:
        wait_s = FIRST_WAIT_S
        while True:
            started_s = time.monotonic()
            asked_s = await self.session()
            if time.monotonic() - started_s > 1:
                wait_s = FIRST_WAIT_S
            await self.pause(wait_s, asked_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    async def pause(self, wait_s: float, asked_s: float) -> None:
        await asyncio.sleep(max(wait_s, asked_s))

    async def session(self) -> float:
        """Seconds that the service asks for before the next try."""
        call = self.call()
        try:
            await self.hello(call)
            await self.read(call)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.receive(call))
                tasks.create_task(self.send(call))
        except* (grpc.aio.AioRpcError, asyncio.InvalidStateError, Ended):
            pass
        finally:
            self.closed()
            call.cancel()
        metadata = dict(await call.trailing_metadata() or ())
        return int(metadata.get(PUSHBACK_KEY, 0)) / 1000

    async def hello(self, call: Any) -> None:
        self.epoch = self.adapter.next_epoch()
        self.clear()
        self.collecting = True
        await call.write(self.opening())

    def named(self) -> list[engine_pb2.RequestDeclaration]:
        return [self.adapter.declaration(request) for request in self.adapter.living.values()]

    def closed(self) -> None:
        self.collecting = False
        self.clear()

    async def read(self, call: Any) -> Any:
        answer = await call.read()
        if answer is grpc.aio.EOF:
            raise Ended
        return answer

    async def send(self, call: Any) -> None:
        while True:
            await self.wake.wait()
            self.wake.clear()
            while (message := self.take()) is not None:
                await call.write(message)
                await self.sent()

    async def sent(self) -> None: ...

    def arrived(self, request: Request) -> None:
        if self.collecting:
            self.waiting_room(request).append(request)
            self.wake.set()

    def waiting_room(self, request: Request) -> list[Request]:
        ending = any(ended.said["request_id"] == request.said["request_id"] for ended, _ in self.finished)
        return self.reused if ending else self.declared

    def ended(self, request: Request, said: dict[str, Any]) -> None:
        if not self.collecting:
            return
        for room in (self.declared, self.reused):
            if request in room:
                room.remove(request)
                break
        else:
            self.finished.append((request, said))
        self.wake.set()

    call: Any
    opening: Any
    receive: Any
    take: Any


class PredictorLink(Link):
    def clear(self) -> None:
        super().clear()
        self.rows: dict[int, tuple[int, list[float]]] = {}
        self.answered = asyncio.Event()

    def call(self) -> Any:
        return predictor_pb2_grpc.PredictorServiceStub(self.adapter.predictor).StreamPredict()

    def opening(self) -> predictor_pb2.StreamPredictRequest:
        opening = predictor_pb2.OpenPredict(
            engine_id=self.adapter.engine["engine_id"], epoch=self.epoch, dtype=engine_pb2.DTYPE_FLOAT32,
            dim=self.adapter.engine["dim"], requests=self.named(),
        )  # fmt: skip
        return predictor_pb2.StreamPredictRequest(open=opening)

    def stepped(self, rows: list[dict[str, Any]]) -> None:
        if self.collecting:
            for row in rows:
                self.row(self.adapter.living[row["request_id"]], row["age"], row["values"])
            self.wake.set()

    def row(self, request: Request, age: int, values: list[float]) -> None:
        self.rows[request.handle] = (age, values)

    def ended(self, request: Request, said: dict[str, Any]) -> None:
        super().ended(request, said)
        self.rows.pop(request.handle, None)

    def take(self) -> predictor_pb2.StreamPredictRequest | None:
        if not (self.rows or self.declared or self.finished):
            return None
        step = predictor_pb2.PredictStep(epoch=self.epoch, step=next(self.steps))
        step.declared.extend(self.adapter.declaration(request, age=0) for request in self.declared)
        step.finished.extend(request.handle for request, _ in self.finished)
        early = {request.handle: self.rows.pop(request.handle, None) for request in self.reused}
        prompts = {handle: row for handle, row in self.rows.items() if row[0] == 0}
        decodes = {handle: row for handle, row in self.rows.items() if row[0] > 0}
        if prompts:
            step.prompts.handles.extend(prompts)
            step.prompts.last.CopyFrom(self.packed([values for _, values in prompts.values()]))
        if decodes:
            step.decodes.handles.extend(decodes)
            step.decodes.ages.extend(age for age, _ in decodes.values())
            step.decodes.last.CopyFrom(self.packed([values for _, values in decodes.values()]))
        self.taken()
        self.rows = {handle: row for handle, row in early.items() if row}
        return predictor_pb2.StreamPredictRequest(step=step)

    def packed(self, rows: list[list[float]]) -> engine_pb2.Vectors:
        return vectors.pack(np.array(rows), engine_pb2.DTYPE_FLOAT32)

    async def sent(self) -> None:
        await self.answered.wait()

    async def receive(self, call: Any) -> None:
        while True:
            await self.read(call)
            self.answered.set()


class SchedulerLink(Link):
    def clear(self) -> None:
        super().clear()
        self.batch: dict[str, Any] | None = None
        self.batch_handles: list[int] = []
        self.preempted: dict[int, None] = {}
        self.engine_steps = 0

    def call(self) -> Any:
        return scheduler_pb2_grpc.SchedulerServiceStub(self.adapter.scheduler).Coordinate()

    def opening(self) -> scheduler_pb2.CoordinateRequest:
        names = ("max_running_requests", "kv_blocks", "kv_block_tokens", "step_token_budget")
        capacity = scheduler_pb2.EngineCapacity(**{name: self.adapter.engine[name] for name in names})
        opening = scheduler_pb2.OpenCoordinate(
            engine_id=self.adapter.engine["engine_id"], epoch=self.epoch, capacity=capacity, requests=self.named()
        )
        return scheduler_pb2.CoordinateRequest(open=opening)

    def stepped(self, said: dict[str, Any]) -> None:
        if not self.collecting:
            return
        living = self.adapter.living
        self.batch = said
        self.batch_handles = [living[each["request_id"]].handle for each in said["running"]]
        self.preempted |= dict.fromkeys(living[name].handle for name in said["preempted"])
        self.engine_steps += 1
        self.wake.set()

    def take(self) -> scheduler_pb2.CoordinateRequest | None:
        if not (self.batch or self.declared or self.finished):
            return None
        delta = scheduler_pb2.StateDelta(
            epoch=self.epoch, step=next(self.steps), free_kv_blocks=self.adapter.free_kv_blocks,
            arrived=[self.adapter.declaration(request, age=0) for request in self.declared],
            preempted=list(self.preempted), engine_steps=self.engine_steps,
            finished=[self.outcome(*end) for end in self.finished],
        )  # fmt: skip
        if self.batch:
            delta.step_duration_s = self.batch["duration_s"]
            delta.running.handles.extend(self.batch_handles)
            for each in self.batch["running"]:
                delta.running.ages.append(each["age"])
                delta.running.computed_tokens.append(each["computed_tokens"])
        self.taken()
        return scheduler_pb2.CoordinateRequest(delta=delta)

    def outcome(self, request: Request, said: dict[str, Any]) -> scheduler_pb2.Outcome:
        reason = scheduler_pb2.FinishReason.Value(f"FINISH_REASON_{said['reason'].upper()}")
        names = ("output_tokens", "latency_s", "time_to_first_token_s", "preemptions", "recomputed_tokens")
        return scheduler_pb2.Outcome(handle=request.handle, reason=reason, **{name: said[name] for name in names})

    async def receive(self, call: Any) -> None:
        while True:
            self.planned((await self.read(call)).plan)

    def planned(self, plan: scheduler_pb2.EnginePlan) -> None:
        if plan.epoch != self.epoch or not len(plan.handles) == len(plan.ranks) == len(plan.predicted_at_ages):
            return
        self.adapter.plan = Plan(list(plan.handles), list(plan.preemptions), time.monotonic() + plan.ttl_ms / 1000)

    def closed(self) -> None:
        super().closed()
        self.adapter.plan = Plan()


class Adapter:
    predictor_link: type[PredictorLink] = PredictorLink
    scheduler_link: type[SchedulerLink] = SchedulerLink

    def __init__(self, engine: dict[str, Any]) -> None:
        self.engine = engine
        self.predictor = grpc.aio.insecure_channel(os.environ["TRAIL_PREDICTOR"], options=_RECONNECT)
        self.scheduler = grpc.aio.insecure_channel(os.environ["TRAIL_SCHEDULER"], options=_RECONNECT)
        self.incarnation = self.draw_incarnation()
        self.counters, self.handles = count(1), count(1)
        self.living: dict[str, Request] = {}
        self.running: dict[int, int] = {}
        self.free_kv_blocks = engine["kv_blocks"]
        self.plan = Plan()
        self.links = (self.predictor_link(self), self.scheduler_link(self))

    def draw_incarnation(self) -> int:
        return secrets.randbits(64) or 1

    def next_epoch(self) -> engine_pb2.Epoch:
        return engine_pb2.Epoch(incarnation=self.incarnation, counter=next(self.counters))

    def new_handle(self, request_id: str) -> int:
        return next(self.handles)

    def declaration(self, request: Request, age: int | None = None) -> engine_pb2.RequestDeclaration:
        said = request.said
        names = ("request_id", "prompt_token_ids", "max_tokens", "arrival_time_s", "priority", "tenant")
        return engine_pb2.RequestDeclaration(
            handle=request.handle, age_tokens=request.age if age is None else age,
            prompt_tokens=len(said["prompt_token_ids"]), **{name: said[name] for name in names},
        )  # fmt: skip

    def arrived(self, said: dict[str, Any]) -> None:
        request = Request(said, self.new_handle(said["request_id"]))
        self.living[said["request_id"]] = request
        for link in self.links:
            link.arrived(request)

    def step(self, said: dict[str, Any]) -> None:
        self.free_kv_blocks = said["free_kv_blocks"]
        self.running = {}
        for each in said["running"]:
            request = self.living[each["request_id"]]
            request.age = self.running[request.handle] = each["age"]
        predictor, scheduler = self.links
        predictor.stepped(said["rows"])
        scheduler.stepped(said)

    def finished(self, said: dict[str, Any]) -> None:
        request = self.living.pop(said["request_id"])
        self.running.pop(request.handle, None)
        for link in self.links:
            link.ended(request, said)

    def decide(self) -> dict[str, list[str]]:
        plan = self.plan
        if not self.alive(plan):
            return {"order": [], "preempt": []}
        names = {request.handle: name for name, request in self.living.items()}
        preempt = [names[each.victim] for each in plan.preemptions if self.preempts(each)]
        plan.preemptions = []
        return {"order": [names[handle] for handle in plan.order if handle in names], "preempt": preempt}

    def alive(self, plan: Plan) -> bool:
        return time.monotonic() < plan.expires_s

    def preempts(self, preemption: scheduler_pb2.Preemption) -> bool:
        waiting = {request.handle for request in self.living.values()} - self.running.keys()
        age = self.running.get(preemption.victim)
        return age is not None and age < preemption.only_if_age_below and preemption.beneficiary in waiting


_RECONNECT = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
]


async def run(kind: type[Adapter]) -> None:
    """Until standard input ends."""
    reader = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    adapter = kind(json.loads(await reader.readline()))
    links = [asyncio.create_task(link.run()) for link in adapter.links]
    while line := await reader.readline():
        said = json.loads(line)
        if said["event"] == "schedule":
            print(json.dumps(adapter.decide()), flush=True)
        else:
            getattr(adapter, said["event"])(said)
    for link in links:
        link.cancel()


if __name__ == "__main__":
    asyncio.run(run(Adapter))
