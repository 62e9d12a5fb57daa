"""Checks on what an adapter makes of plans."""

from __future__ import annotations

from typing import Any

from sidecar.cli.conformance.adapter.engine import Decision
from sidecar.cli.conformance.adapter.scenarios import scenario
from sidecar.cli.conformance.adapter.stage import Stage
from sidecar.cli.conformance.verdict import Broken
from trail.v1 import engine_pb2, scheduler_pb2

SHORT_MS = 300
UNKNOWN_FIELD = b"\xfa\x3e\x05later"
"""Field 1007 of a later version, as bytes."""


@scenario("plan-order")
async def plan_order(stage: Stage) -> None:
    """The engine serves in the order of the newest plan."""
    await stage.ready("a", "b", "c")
    await stage.own_order("the engine's own order before the first plan")
    await stage.plan("c", "a", "b")
    await stage.follows("c", "a", "b")
    await stage.plan("b", "c", "a")
    await stage.follows("b", "c", "a")


@scenario("plan-expires")
async def plan_expires(stage: Stage) -> None:
    """A plan is used for its `ttl_ms` and no longer; then the engine keeps its own order."""
    await stage.ready("a", "b")
    await stage.plan("b", "a")
    await stage.follows("b", "a")
    await stage.plan("a", "b", ttl_ms=SHORT_MS)
    await stage.own_order(f"the engine's own order {SHORT_MS} ms after the last plan")


@scenario("plan-epoch")
async def plan_epoch(stage: Stage) -> None:
    """A plan of another epoch than the stream's is not followed."""
    await stage.ready("a", "b", "c")
    await stage.plan("c", "b", "a")
    await stage.follows("c", "b", "a")
    await _is_ignored(stage, "a plan of another epoch", epoch=engine_pb2.Epoch(incarnation=1, counter=1))


@scenario("plan-broken")
async def plan_broken(stage: Stage) -> None:
    """A plan whose arrays differ in length is not followed."""
    await stage.ready("a", "b", "c")
    await stage.plan("c", "b", "a")
    await stage.follows("c", "b", "a")
    await _is_ignored(stage, "a plan of 3 handles and 1 rank", ranks=[0.0])


@scenario("plan-unknown-field")
async def plan_unknown_field(stage: Stage) -> None:
    """A plan with a field of a later version is followed."""
    await stage.ready("a", "b")
    await stage.plan("b", "a", more=UNKNOWN_FIELD)
    await stage.follows("b", "a")


@scenario("plan-dead-requests")
async def plan_dead_requests(stage: Stage) -> None:
    """Handles in a plan that are unknown, or of requests that have ended, are passed over."""
    await stage.ready("a", "b", "c")
    known = [stage.handle(name) for name in ("c", "b", "a")]
    nobody = next(handle for handle in range(1, 9) if handle not in known)
    await stage.plan(handles=[known[0], nobody, *known[1:]], ranks=[0, 1, 2, 3], predicted_at_ages=[0] * 4)
    await stage.follows("c", "b", "a")
    await stage.engine.finish("b")
    await stage.follows("c", "a")


@scenario("preemption")
async def preemption(stage: Stage) -> None:
    """A plan's preemption is asked of the engine once."""
    await _full(stage)
    await stage.plan("c", "a", "b", preemptions=[_preemption(stage, "a", 10, "c")])
    decision = await stage.follows("c", "a", "b")
    if decision.preempt != ("a",):
        raise Broken("preempt ['a'], whose guard holds", str(decision))
    await stage.engine.step("b", "c", preempted=["a"])
    await stage.engine.step("a", "b", preempted=["c"])
    again = await stage.engine.schedule()
    if again.preempt:
        raise Broken("no preemption that was asked for before", str(again))


@scenario("preemption-guard")
async def preemption_guard(stage: Stage) -> None:
    """Nobody is preempted at an age of `only_if_age_below` or more."""
    await _full(stage)
    age = stage.engine.requests["a"].age
    await stage.plan("c", "a", "b", preemptions=[_preemption(stage, "a", age, "c")])
    _nobody_preempted(await stage.follows("c", "a", "b"), f"'a' has {age} tokens, the guard is {age}")


@scenario("preemption-victim")
async def preemption_victim(stage: Stage) -> None:
    """Nobody is preempted who does not run."""
    await _full(stage)
    await stage.plan("c", "d", "a", "b", preemptions=[_preemption(stage, "d", 10, "c")])
    _nobody_preempted(await stage.follows("c", "d", "a", "b"), "'d' does not run")


@scenario("preemption-beneficiary")
async def preemption_beneficiary(stage: Stage) -> None:
    """Nobody is preempted for a request that does not wait any more."""
    await _full(stage)
    gone = [_preemption(stage, "a", 10, "c"), _preemption(stage, "b", 10, "a")]
    await stage.engine.finish("c")
    await stage.known()
    await stage.plan("d", "a", "b", preemptions=gone)
    _nobody_preempted(await stage.follows("d", "a", "b"), "'c' has ended, and 'a' runs already")


async def _full(stage: Stage) -> None:
    """'a' and 'b' run, three tokens old; 'c' and 'd' wait."""
    await stage.ready("a", "b", "c", "d")
    for _ in range(4):
        await stage.engine.step("a", "b")


def _preemption(stage: Stage, victim: str, below: int, beneficiary: str) -> scheduler_pb2.Preemption:
    return scheduler_pb2.Preemption(
        victim=stage.handle(victim), only_if_age_below=below, beneficiary=stage.handle(beneficiary)
    )


def _nobody_preempted(decision: Decision, why: str) -> None:
    if decision.preempt:
        raise Broken(f"nobody is preempted: {why}", str(decision))


async def _is_ignored(stage: Stage, what: str, **wrong: Any) -> None:
    """A short plan, and right behind it a long one with `wrong` in it: once the first has run out, the other one would
    show itself for good."""
    never = ("a", "b", "c")
    await stage.plan("b", "a", "c", ttl_ms=SHORT_MS)
    await stage.plan(*never, **wrong)
    await stage.own_order(f"{what} is ignored", never=never)
    await stage.plan("c", "a", "b")
    await stage.decides(lambda decision: decision.order == ("c", "a", "b"), f"{what} is ignored", never=never)
