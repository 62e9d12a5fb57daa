"""Adapters that break the contract, each in one habit: `python -m tests.conformance.wrong_adapters NAME`."""

import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

from tests.conformance.small_adapter import Adapter, Ended, Link, Plan, PredictorLink, Request, SchedulerLink, run
from trail.v1 import engine_pb2, predictor_pb2, scheduler_pb2


@dataclass(frozen=True)
class Wrong:
    adapter: type[Adapter]
    check: str
    """What must fail."""
    played: str
    """The check during which it shows."""
    says: str
    """Part of what is then said to have been seen."""


WRONG: dict[str, Wrong] = {}


def breaks(check: str, says: str, played: str = "") -> Callable[[type], type]:
    """Registers an adapter, or one link of it, by its class name."""

    def register(kind: type) -> type:
        adapter = kind
        if issubclass(kind, PredictorLink):
            adapter = type("Wrong", (Adapter,), {"predictor_link": kind})
        elif issubclass(kind, SchedulerLink):
            adapter = type("Wrong", (Adapter,), {"scheduler_link": kind})
        WRONG[kind.__name__] = Wrong(adapter, check, played or check, says)
        return kind

    return register


def both(change: type) -> type[Adapter]:
    """An adapter with the change in both of its links."""
    links = {"predictor_link": PredictorLink, "scheduler_link": SchedulerLink}
    return type(change.__name__, (Adapter,), {name: type("Wrong", (change, link), {}) for name, link in links.items()})


@breaks("open-first", "`step` before `open`", "life")
class StepsFirst(PredictorLink):
    async def hello(self, call: Any) -> None:
        await call.write(predictor_pb2.StreamPredictRequest(step=predictor_pb2.PredictStep(step=1)))
        await super().hello(call)


@breaks("epoch-new", "counter 1 after 1", "reopens")
class KeepsItsEpoch(Adapter):
    def next_epoch(self) -> engine_pb2.Epoch:
        return engine_pb2.Epoch(incarnation=self.incarnation, counter=1)


@breaks("epoch-new", "2 incarnations", "life")
class DrawsTwice(Adapter):
    def next_epoch(self) -> engine_pb2.Epoch:
        return engine_pb2.Epoch(incarnation=self.draw_incarnation(), counter=next(self.counters))


@breaks("epoch-kept", "epoch 0:0 on a stream of", "life")
class ForgetsTheEpoch(SchedulerLink):
    def take(self) -> scheduler_pb2.CoordinateRequest | None:
        message = super().take()
        if message is not None:
            message.delta.ClearField("epoch")
        return message


@breaks("steps-rise", "step 1 after 1", "life")
class NeverCounts(SchedulerLink):
    def take(self) -> scheduler_pb2.CoordinateRequest | None:
        self.steps = count(1)
        return super().take()


@breaks("handles", "to one service, ", "life")
class HandlesOfTheirOwn(SchedulerLink):
    def opening(self) -> scheduler_pb2.CoordinateRequest:
        return self._exchanged(super().opening())

    def take(self) -> scheduler_pb2.CoordinateRequest | None:
        message = super().take()
        return None if message is None else self._exchanged(message)

    def _exchanged(self, message: scheduler_pb2.CoordinateRequest) -> scheduler_pb2.CoordinateRequest:
        for declared in (*message.open.requests, *message.delta.arrived):
            declared.handle = {1: 2, 2: 1}.get(declared.handle, declared.handle)
        return message


@breaks("handles", "handle 0 for 'a'", "life")
class HandleZero(Adapter):
    def __init__(self, engine: dict[str, Any]) -> None:
        super().__init__(engine)
        self.handles = count(0)


@breaks("declared-once", "'a' again", "life")
class DeclaresAtEachStep(PredictorLink):
    def take(self) -> predictor_pb2.StreamPredictRequest | None:
        message = super().take()
        if message is not None:
            del message.step.declared[:]
            message.step.declared.extend(self.named())
        return message


@breaks("declared-before-use", "rows names handle 1, of 'a'", "life")
class RowsOfTheDead(PredictorLink):
    dead: Request | None = None

    def ended(self, request: Request, said: dict[str, Any]) -> None:
        super().ended(request, said)
        self.dead = request

    def stepped(self, rows: list[dict[str, Any]]) -> None:
        super().stepped(rows)
        if self.dead is not None:
            self.row(self.dead, self.dead.age + 1, rows[0]["values"])


@breaks("id-reused", "it was declared 1 times")
class RemembersIds(Adapter):
    def __init__(self, engine: dict[str, Any]) -> None:
        super().__init__(engine)
        self.seen: dict[str, Request] = {}

    def arrived(self, said: dict[str, Any]) -> None:
        known = self.seen.get(said["request_id"])
        if known is not None:
            self.living[said["request_id"]] = known
            return
        super().arrived(said)
        self.seen[said["request_id"]] = self.living[said["request_id"]]


@breaks("reopens", "{}")
class ForgetsTheLiving(SchedulerLink):
    def named(self) -> list[engine_pb2.RequestDeclaration]:
        return super().named() if self.epoch.counter <= 2 else []


@breaks("reopens", "'a': 0")
class ForgetsAges(PredictorLink):
    def named(self) -> list[engine_pb2.RequestDeclaration]:
        return [self.adapter.declaration(request, age=0) for request in self.adapter.living.values()]


@breaks("end-then-reuse", "the end and the next declaration of 'a' in one message", "id-reused")
class ReusesAtOnce(Adapter):
    def new_handle(self, request_id: str) -> int:
        return 1 + sum(map(ord, request_id))

    def __init__(self, engine: dict[str, Any]) -> None:
        super().__init__(engine)
        for link in self.links:
            link.waiting_room = lambda _, link=link: link.declared  # type: ignore[method-assign, misc]


@breaks("ages-rise", "after", "row-errors")
class SendsRowsTwice(PredictorLink):
    last: predictor_pb2.StreamPredictRequest | None = None

    def take(self) -> predictor_pb2.StreamPredictRequest | None:
        message, self.last = super().take() or self.last, None
        if message is None or not message.step.epoch.counter:
            return None
        if message.step.step == self.newest:
            message.step.step = self.newest = next(self.steps)
        else:
            self.newest = message.step.step
            self.last = predictor_pb2.StreamPredictRequest()
            self.last.CopyFrom(message)
            self.last.step.ClearField("declared")
            self.last.step.ClearField("finished")
        return message

    newest = 0


@breaks("vectors", "bytes", "life")
class SendsHalves(PredictorLink):
    def packed(self, rows: list[list[float]]) -> engine_pb2.Vectors:
        packed = super().packed(rows)
        packed.data = packed.data[: len(packed.data) // 2]
        return packed


@breaks("vectors", "of 'a' at age", "life")
class BigEndian(PredictorLink):
    def packed(self, rows: list[list[float]]) -> engine_pb2.Vectors:
        packed = super().packed(rows)
        packed.data = b"".join(packed.data[at : at + 4][::-1] for at in range(0, len(packed.data), 4))
        return packed


@breaks("declarations", "max_tokens 0, which the engine gave as", "life")
class ForgetsTheCap(Adapter):
    def declaration(self, request: Request, age: int | None = None) -> engine_pb2.RequestDeclaration:
        declared = super().declaration(request, age)
        declared.max_tokens = 0
        return declared


@breaks("batches", "(age, computed tokens) in step", "life")
class HalfABatch(SchedulerLink):
    def stepped(self, said: dict[str, Any]) -> None:
        super().stepped(said | {"running": said["running"][:1]})


@breaks("engine-steps", "from the batch of step", "life")
class CountsMessages(SchedulerLink):
    def take(self) -> scheduler_pb2.CoordinateRequest | None:
        message = super().take()
        if message is not None and message.delta.engine_steps:
            message.delta.engine_steps += 1
        return message


@breaks("outcomes", "latency_s 0.0 of 'a', which the engine gave as", "life")
class ForgetsLatency(SchedulerLink):
    def outcome(self, request: Request, said: dict[str, Any]) -> scheduler_pb2.Outcome:
        return super().outcome(request, said | {"latency_s": 0.0})


@breaks("life", "3")
class EndsTwice(SchedulerLink):
    def ended(self, request: Request, said: dict[str, Any]) -> None:
        super().ended(request, said)
        if request.handle == 1:
            asyncio.get_running_loop().call_soon(super().ended, request, said)


@breaks("life", "it knows ['a', 'b']")
class NeverEnds(PredictorLink):
    def ended(self, request: Request, said: dict[str, Any]) -> None:
        pass


@breaks("preempted", "[]")
class HidesPreemptions(SchedulerLink):
    def stepped(self, said: dict[str, Any]) -> None:
        super().stepped(said | {"preempted": []})


@breaks("row-errors", "on stream 2")
class EndsAtARowError(PredictorLink):
    async def read(self, call: Any) -> Any:
        answer = await super().read(call)
        if answer.predictions.errors:
            raise Ended
        return answer


@breaks("plan-order", "still order ['a', 'b', 'c']")
class OwnOrder(SchedulerLink):
    def planned(self, plan: scheduler_pb2.EnginePlan) -> None:
        super().planned(plan)
        self.adapter.plan.order.sort()


@breaks("plan-expires", "still order ['a', 'b']")
class NeverExpires(Adapter):
    def alive(self, plan: Plan) -> bool:
        return bool(plan.order)


class AnyPlan(SchedulerLink):
    def planned(self, plan: scheduler_pb2.EnginePlan) -> None:
        self.adapter.plan = Plan(list(plan.handles), [], time.monotonic() + plan.ttl_ms / 1000)


@breaks("plan-epoch", "order ['a', 'b', 'c']")
class AnyEpoch(AnyPlan): ...


@breaks("plan-broken", "order ['a', 'b', 'c']")
class AnyLengths(AnyPlan): ...


@breaks("plan-unknown-field", "order of the engine")
class KnowsEveryField(SchedulerLink):
    def planned(self, plan: scheduler_pb2.EnginePlan) -> None:
        known = scheduler_pb2.EnginePlan.FromString(plan.SerializeToString())
        known.DiscardUnknownFields()
        if known.ByteSize() == plan.ByteSize():
            super().planned(plan)


@breaks("plan-dead-requests", "it ended with status 1")
class TrustsHandles(Adapter):
    def decide(self) -> dict[str, list[str]]:
        names = {request.handle: name for name, request in self.living.items()}
        return {"order": [names[handle] for handle in self.plan.order], "preempt": []}


@breaks("preemption", "preempt []")
class NeverPreempts(Adapter):
    def preempts(self, preemption: scheduler_pb2.Preemption) -> bool:
        return False


@breaks("preemption", "preempt ['a']")
class PreemptsAgain(Adapter):
    def decide(self) -> dict[str, list[str]]:
        kept = self.plan.preemptions
        decided = super().decide()
        self.plan.preemptions = kept
        return decided


@breaks("preemption-guard", "preempt ['a']")
class IgnoresTheGuard(Adapter):
    def preempts(self, preemption: scheduler_pb2.Preemption) -> bool:
        preemption.only_if_age_below = 1000
        return super().preempts(preemption)


@breaks("preemption-victim", "preempt ['d']")
class PreemptsWhoWaits(Adapter):
    def preempts(self, preemption: scheduler_pb2.Preemption) -> bool:
        return True


@breaks("preemption-beneficiary", "preempt ['a', 'b']")
class PreemptsForNobody(PreemptsWhoWaits): ...


@breaks("slow-predictor", "none in ")
class WaitsForThePredictor(Adapter):
    """Decides nothing while an answer is due."""

    def decide(self) -> dict[str, list[str]]:
        if self.links[0].rows:
            time.sleep(3600)
        return super().decide()


@breaks("no-scheduler", "no stream is open, 1 were")
class TriesOnce(SchedulerLink):
    async def pause(self, wait_s: float, asked_s: float) -> None:
        await asyncio.Event().wait()


@breaks("no-predictor", "no stream is open, 1 were")
class TriesThePredictorOnce(PredictorLink):
    async def pause(self, wait_s: float, asked_s: float) -> None:
        await asyncio.Event().wait()


class Hurries(Link):
    async def pause(self, wait_s: float, asked_s: float) -> None:
        await asyncio.sleep(0)


class Impatient(Link):
    async def pause(self, wait_s: float, asked_s: float) -> None:
        await asyncio.sleep(wait_s / 4)


WRONG["Hurries"] = Wrong(both(Hurries), "backs-off-when-gone", "backs-off-when-gone", " s")
WRONG["Impatient"] = Wrong(both(Impatient), "backs-off-when-full", "backs-off-when-full", "0.0")


@breaks("restarts", "7 again")
class AlwaysSeven(Adapter):
    def draw_incarnation(self) -> int:
        return 7


@breaks("ends", "s longer")
class OutlivesTheEngine(Adapter): ...


async def _run(name: str) -> None:
    await run(WRONG[name].adapter)
    if name == "OutlivesTheEngine":
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_run(sys.argv[1]))
