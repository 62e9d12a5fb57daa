"""Checks on a scheduler service."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc

from sidecar.cli.conformance.service.channel import Check, Site, Stream, declaration
from sidecar.cli.conformance.verdict import Broken
from trail.v1 import engine_pb2, scheduler_pb2

CHECKS: dict[str, Check] = {}
"""Name -> what it plays; the docstring is the promise."""

INVALID, PRECONDITION = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION
UNKNOWN_FIELD = b"\xfa\x3e\x05later"
CAPACITY = scheduler_pb2.EngineCapacity(
    max_running_requests=2, kv_blocks=100, kv_block_tokens=16, step_token_budget=256
)


def check(played: Check) -> Check:
    CHECKS[played.__name__.replace("_", "-")] = played
    return played


@check
async def scheduler_opens(site: Site) -> None:
    """`open` is answered first, with its epoch and the policy in force."""
    async with _stream(site) as stream:
        opened = await _open(site, stream)
        if opened.epoch != site.epoch() or not opened.policy.policy:
            raise Broken("the epoch of `open`, and a policy", f"{opened.epoch}, {opened.policy.policy!r}")


@check
async def scheduler_open_comes_first(site: Site) -> None:
    """A stream that does not begin with `open` ends with FAILED_PRECONDITION."""
    async with _stream(site) as stream:
        await stream.say(_delta(site, 1))
        await stream.refused("a delta before `open`", PRECONDITION, "open")


@check
async def scheduler_open_comes_once(site: Site) -> None:
    """A second `open` on a stream ends it with FAILED_PRECONDITION."""
    async with _stream(site) as stream:
        await _open(site, stream)
        await stream.say(_opening(site))
        await stream.refused("a second `open`", PRECONDITION, "open")


@check
async def scheduler_plans(site: Site) -> None:
    """After a delta comes a plan of the stream's epoch: it lives for a while and orders the requests that live."""
    async with _stream(site) as stream:
        await _open(site, stream, 1)
        await stream.say(_delta(site, 1, arrived=[declaration(2), declaration(3)], running=_running([1], [0])))
        _well_formed(site, await _plan(stream, 1), {1, 2, 3})


@check
async def scheduler_numbers_its_plans(site: Site) -> None:
    """The numbers of plans rise, and the step that they rest on never falls."""
    async with _stream(site) as stream:
        await _open(site, stream)
        newest = await _plan_after(stream, _delta(site, 1, arrived=[declaration(1)]), 1)
        for step in (2, 3, 4):
            plan = await _plan_after(stream, _delta(site, step, arrived=[declaration(step)]), step)
            if plan.number <= newest.number or plan.step < newest.step:
                raise Broken(f"a number above {newest.number}", f"number {plan.number}, step {plan.step}")
            newest = plan


@check
async def scheduler_repeats(site: Site) -> None:
    """A repeated delta and an old one change nothing."""
    async with _stream(site) as stream:
        await _open(site, stream)
        await stream.say(_delta(site, 5, arrived=[declaration(1), declaration(2)]))
        await stream.say(_delta(site, 5, arrived=[declaration(7)], finished=[scheduler_pb2.Outcome(handle=1)]))
        await stream.say(_delta(site, 4, arrived=[declaration(8)], finished=[scheduler_pb2.Outcome(handle=2)]))
        await stream.say(_delta(site, 6, arrived=[declaration(3)]))
        _well_formed(site, await _plan(stream, 6), {1, 2, 3})


@check
async def scheduler_ends(site: Site) -> None:
    """A request that has ended is in no plan any more."""
    async with _stream(site) as stream:
        await _open(site, stream, 1, 2)
        await stream.say(_delta(site, 1, running=_running([1, 2], [0, 0])))
        ended = scheduler_pb2.Outcome(handle=1, reason=scheduler_pb2.FINISH_REASON_STOP, output_tokens=1)
        await stream.say(_delta(site, 2, arrived=[declaration(3)], running=_running([2], [1]), finished=[ended]))
        _well_formed(site, await _plan(stream, 2), {2, 3})


@check
async def scheduler_unknown_handles(site: Site) -> None:
    """Handles that nobody declared end no stream."""
    async with _stream(site) as stream:
        await _open(site, stream, 1)
        nobody = {"preempted": [98], "finished": [scheduler_pb2.Outcome(handle=99)]}
        await stream.say(_delta(site, 1, running=_running([1, 97], [0, 5]), arrived=[declaration(2)], **nobody))
        _well_formed(site, await _plan(stream, 1), {1, 2})


@check
async def scheduler_keeps_to_the_epoch(site: Site) -> None:
    """A delta of another epoch than the stream's ends it with FAILED_PRECONDITION, naming `delta.epoch`."""
    async with _stream(site) as stream:
        await _open(site, stream)
        await stream.say(_delta(site, 1, epoch=site.epoch(2)))
        await stream.refused("another epoch", PRECONDITION, field="epoch")


@check
async def scheduler_takeover(site: Site) -> None:
    """A newer stream takes the engine: the older one ends with ABORTED, and plans go to the newer one."""
    async with _stream(site) as older, _stream(site) as newer:
        await _open(site, older, 1)
        await _open(site, newer, 1, 2, counter=2)
        await older.refused("the older stream", grpc.StatusCode.ABORTED)
        await newer.say(_delta(site, 1, epoch=site.epoch(2), arrived=[declaration(3)]))
        _well_formed(site, await _plan(newer, 1), {1, 2, 3}, counter=2)


@check
async def scheduler_unknown_field(site: Site) -> None:
    """A field of a later version is passed over."""
    async with _stream(site) as stream:
        await _open(site, stream)
        message = _delta(site, 1, arrived=[declaration(1)])
        message.delta.MergeFromString(UNKNOWN_FIELD)
        await stream.say(message)
        _well_formed(site, await _plan(stream, 1), {1})


@check
async def scheduler_bad_open(site: Site) -> None:
    """An `open` with a bad field is INVALID_ARGUMENT, and the text names the field."""
    for field, fields in (
        ("engine_id", {"engine_id": "no spaces"}), ("engine_id", {"engine_id": ""}),
        ("epoch.incarnation", {"epoch": engine_pb2.Epoch(counter=1)}),
        ("handle", {"requests": [declaration(0)]}), ("handle", {"requests": [declaration(1), declaration(1)]}),
        ("request_id", {"requests": [declaration(1, request_id="")]}),
        ("request_id", {"requests": [declaration(1, request_id="x" * 257)]}),
        ("arrival_time_s", {"requests": [declaration(1, arrival_time_s=float("nan"))]}),
        ("deadline_s", {"requests": [declaration(1, deadline_s=-1.0)]}),
    ):  # fmt: skip
        async with _stream(site) as stream:
            await stream.say(_opening(site, **fields))
            await stream.refused(f"a bad {field} in `open`", INVALID, field=field)


@check
async def scheduler_bad_delta(site: Site) -> None:
    """A delta that is malformed is INVALID_ARGUMENT, and the text names the field."""
    fewer_ages, fewer_computed = _running([1, 2], [1, 1]), _running([1, 2], [1, 1])
    del fewer_ages.ages[1:]
    del fewer_computed.computed_tokens[1:]
    for field, fields in (
        ("ages", {"running": fewer_ages}), ("computed_tokens", {"running": fewer_computed}),
        ("running.handles", {"running": _running([1, 1], [1, 1])}), ("preempted", {"preempted": [1, 1]}),
        ("finished", {"finished": [scheduler_pb2.Outcome(handle=1), scheduler_pb2.Outcome(handle=1)]}),
        ("latency_s", {"finished": [scheduler_pb2.Outcome(handle=1, latency_s=float("inf"))]}),
        ("step_duration_s", {"step_duration_s": -1.0}), ("handle", {"arrived": [declaration(0)]}),
        ("request_id", {"arrived": [declaration(9, request_id="")]}),
    ):  # fmt: skip
        async with _stream(site) as stream:
            await _open(site, stream, 1, 2)
            await stream.say(_delta(site, 1, **fields))
            await stream.refused(f"bad {field} in a delta", INVALID, field=field)


@check
async def scheduler_too_many_rows(site: Site) -> None:
    """A batch of more than `max_rows_per_step` is INVALID_ARGUMENT, and the text names the limit."""
    count = site.limits.max_rows + 1
    async with _stream(site) as stream:
        await _open(site, stream)
        await stream.say(_delta(site, 1, running=_running(range(1, count + 1), [1] * count)))
        await stream.refused(f"{count} rows", INVALID, str(site.limits.max_rows))


@check
async def scheduler_too_many_requests(site: Site) -> None:
    """More living requests than `max_requests_per_engine` are RESOURCE_EXHAUSTED, with when to come again."""
    count = site.limits.max_requests + 1
    async with _stream(site) as stream:
        await stream.say(_opening(site, requests=[declaration(handle) for handle in range(1, count + 1)]))
        await stream.refused(f"{count} requests", grpc.StatusCode.RESOURCE_EXHAUSTED, str(site.limits.max_requests))


@check
async def scheduler_unary(site: Site) -> None:
    """Plan orders one state without a stream: with `srpt`, the shortest first."""
    waiting = [declaration(handle) for handle in (1, 2, 3)]
    request = scheduler_pb2.PlanRequest(
        capacity=CAPACITY, policy=scheduler_pb2.PolicySettings(policy="srpt", aging="none"), waiting=waiting,
        remaining_tokens=[100.0, 5.0, 50.0],
    )  # fmt: skip
    answer = await site.within("Plan is answered", site.scheduler.Plan(request))
    if list(answer.plan.handles) != [2, 3, 1]:
        raise Broken("handles [2, 3, 1], of 5, 50 and 100 tokens", f"{list(answer.plan.handles)}")
    for field, wrong in (
        ("remaining_tokens", scheduler_pb2.PlanRequest(waiting=waiting, remaining_tokens=[1.0])),
        ("policy", scheduler_pb2.PlanRequest(policy=scheduler_pb2.PolicySettings(policy="no-such-policy"))),
        ("handle", scheduler_pb2.PlanRequest(waiting=[declaration(0)], remaining_tokens=[1.0])),
    ):
        await site.refused(f"a bad {field}", site.scheduler.Plan(wrong), INVALID, field=field)


@asynccontextmanager
async def _stream(site: Site) -> Any:
    stream = Stream(site, site.scheduler.Coordinate())
    try:
        yield stream
    finally:
        stream.close()


def _opening(site: Site, counter: int = 1, **fields: Any) -> scheduler_pb2.CoordinateRequest:
    usual: dict[str, Any] = {"engine_id": site.engine_id, "epoch": site.epoch(counter), "capacity": CAPACITY}
    return scheduler_pb2.CoordinateRequest(open=scheduler_pb2.OpenCoordinate(**(usual | fields)))


async def _open(site: Site, stream: Stream, *handles: int, counter: int = 1) -> scheduler_pb2.CoordinateOpened:
    await stream.say(_opening(site, counter, requests=[declaration(handle) for handle in handles]))
    answer = await stream.hear("an answer to `open`")
    if not answer.HasField("opened"):
        raise Broken("`opened` first", f"{answer.WhichOneof('message')}")
    return answer.opened  # type: ignore[no-any-return]


def _delta(site: Site, step: int, **fields: Any) -> scheduler_pb2.CoordinateRequest:
    usual: dict[str, Any] = {"epoch": site.epoch(), "step": step, "free_kv_blocks": 50}
    return scheduler_pb2.CoordinateRequest(delta=scheduler_pb2.StateDelta(**(usual | fields)))


def _running(handles: Sequence[int], ages: Sequence[int]) -> scheduler_pb2.RunningRequests:
    return scheduler_pb2.RunningRequests(handles=handles, ages=ages, computed_tokens=[3 + age for age in ages])


async def _plan(stream: Stream, step: int) -> scheduler_pb2.EnginePlan:
    """The first plan that takes the step into account."""
    while True:
        plan = (await stream.hear(f"a plan for step {step}")).plan
        if plan.step >= step:
            return plan  # type: ignore[no-any-return]


async def _plan_after(stream: Stream, message: scheduler_pb2.CoordinateRequest, step: int) -> scheduler_pb2.EnginePlan:
    await stream.say(message)
    return await _plan(stream, step)


def _well_formed(site: Site, plan: scheduler_pb2.EnginePlan, handles: set[int], counter: int = 1) -> None:
    """Raises Broken unless the plan is this epoch's, lives, contradicts itself nowhere, and orders exactly these."""
    if plan.epoch != site.epoch(counter):
        raise Broken(f"a plan of counter {counter}", f"one of epoch {plan.epoch.incarnation}:{plan.epoch.counter}")
    if plan.ttl_ms == 0:
        raise Broken("a time-to-live above 0", "0")
    lengths = [len(plan.handles), len(plan.ranks), len(plan.predicted_at_ages)]
    if len(set(lengths)) > 1:
        raise Broken("arrays of one length", f"handles, ranks, predicted_at_ages of {lengths}")
    if sorted(plan.handles) != sorted(handles):
        raise Broken(f"an order of handles {sorted(handles)}", f"{sorted(plan.handles)}")
    if list(plan.ranks) != sorted(plan.ranks):
        raise Broken("ranks that do not fall", f"{list(plan.ranks)}")
