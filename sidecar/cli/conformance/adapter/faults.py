"""Checks on what an adapter does when a service is gone, full, slow or taken over."""

from __future__ import annotations

import grpc

from sidecar.cli.conformance.adapter.scenarios import scenario
from sidecar.cli.conformance.adapter.services import Service
from sidecar.cli.conformance.adapter.stage import Stage
from sidecar.cli.conformance.verdict import Broken
from sidecar.errors import Refused

PUSHBACK_S = 0.7
TIMER_S = 0.05
"""What timers of any language may be early."""
REFUSALS = 5
LEAST_WAIT_S = 0.2
"""Of five refusals in a row without a word when to come again, all together."""
MANY_STEPS = 2000


@scenario("reopens")
async def reopens(stage: Stage) -> None:
    """A stream that ends is opened anew under a new epoch, and names who lives at their newest age, and nobody else."""
    await stage.ready("a", "b", "c")
    for _ in range(3):
        await stage.engine.step("a", "b", "c")
    await stage.rows_arrive()
    await stage.engine.finish("c")
    await stage.known()
    for kind, service in stage.services:
        before = len(service.streams)
        service.streams[-1].end(grpc.StatusCode.ABORTED, "the store is back: open again")
        await _opened_again(stage, kind, service, before)
        _ages_named(stage, kind, service)
    await stage.known()
    await stage.engine.step("a", "b")
    await stage.rows_arrive()


@scenario("no-scheduler")
async def no_scheduler(stage: Stage) -> None:
    """Without its scheduler the engine goes on in its own order; the stream comes back by itself."""
    await stage.ready("a", "b", "c")
    await stage.plan("c", "b", "a", ttl_ms=5000)
    await stage.scheduler.stop()
    await stage.own_order("the engine's own order one time-to-live after the scheduler died")
    await stage.engine.finish("c")
    await stage.engine.arrive("d")
    await stage.engine.step("a", "b")
    await stage.rows_arrive()
    await stage.scheduler.start()
    await stage.known()
    await stage.plan("d", "b", "a")
    await stage.follows("d", "b", "a")


@scenario("no-predictor")
async def no_predictor(stage: Stage) -> None:
    """Without its predictor an engine is planned for as before; the stream comes back by itself."""
    await stage.ready("a", "b")
    await stage.engine.step("a", "b")
    await stage.rows_arrive()
    await stage.predictor.stop()
    await stage.engine.step("a", "b")
    await stage.plan("b", "a")
    await stage.follows("b", "a")
    await stage.engine.finish("a")
    await stage.engine.arrive("c")
    await stage.predictor.start()
    await stage.known()
    await stage.engine.step("b", "c")
    await stage.rows_arrive()


@scenario("slow-predictor")
async def slow_predictor(stage: Stage) -> None:
    """A predictor that stops reading holds nobody up; once it reads again, it gets the newest row of each request."""
    await stage.ready("a", "b")
    stage.predictor.reading.clear()
    for number in range(MANY_STEPS):
        await stage.engine.step("a", "b")
        if number % 100 == 0:
            await stage.engine.schedule()
    await stage.plan("b", "a")
    await stage.follows("b", "a")
    stage.predictor.reading.set()
    await stage.rows_arrive()


@scenario("backs-off-when-full")
async def backs_off_when_full(stage: Stage) -> None:
    """Refused with RESOURCE_EXHAUSTED and `grpc-retry-pushback-ms`, it comes again no sooner than that."""
    full = Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many engines", retry_after_ms=round(PUSHBACK_S * 1000))
    for _, service in stage.services:
        service.refusals.extend([full, full])
    await stage.ready("a")
    for kind, service in stage.services:
        shortest = min(service.waits_s)
        if shortest < PUSHBACK_S - TIMER_S:
            raise Broken(f"{PUSHBACK_S} s or more before the {kind} is tried again", f"{shortest:.3f} s")


@scenario("backs-off-when-gone")
async def backs_off_when_gone(stage: Stage) -> None:
    """Refused again and again, it waits between two tries, and longer each time."""
    for _, service in stage.services:
        service.refusals.extend([Refused(grpc.StatusCode.UNAVAILABLE, "draining")] * REFUSALS)
    await stage.ready("a")
    for kind, service in stage.services:
        waited_s = sum(service.waits_s)
        if waited_s < LEAST_WAIT_S:
            expected = f"{LEAST_WAIT_S} s or more over {REFUSALS} tries at the {kind}"
            raise Broken(expected, f"{waited_s:.3f} s")


@scenario("restarts")
async def restarts(stage: Stage) -> None:
    """An adapter that is started anew draws another incarnation, whatever the ids of its requests."""
    await stage.ready("a", "b")
    before = stage.predictor.streams[-1].messages[0].open.epoch.incarnation
    await stage.end_adapter()
    await stage.ready("a", "b")
    if stage.predictor.streams[-1].messages[0].open.epoch.incarnation == before:
        raise Broken("another incarnation than that of the life before", f"{before} again")


@scenario("ends")
async def ends(stage: Stage) -> None:
    """When the engine is gone (its events end), the adapter ends by itself, with status 0."""
    await stage.ready("a")
    status = await stage.engine.leave()
    if status != 0:
        raise Broken("status 0", f"{status}; it wrote: {' / '.join(stage.engine.stderr) or 'nothing'}")


async def _opened_again(stage: Stage, kind: str, service: Service, before: int) -> None:
    await stage.until(
        lambda: len(service.streams) > before and service.streams[-1].messages,
        f"another {kind} stream after ABORTED",
        lambda: f"{len(service.streams)} of them, of which {before} were there before",
    )


def _ages_named(stage: Stage, kind: str, service: Service) -> None:
    opening = service.streams[-1].messages[0].open
    named = {declared.request_id: declared.age_tokens for declared in opening.requests}
    wanted = {name: request.age for name, request in stage.engine.requests.items()}
    if named != wanted:
        raise Broken(f"the {kind}'s `open` names {wanted} (id: age)", f"{named}")
