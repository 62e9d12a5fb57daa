"""Checks on how the life of a request reaches the services."""

from __future__ import annotations

from typing import Any

from sidecar.cli.conformance.adapter.engine import KV_BLOCKS
from sidecar.cli.conformance.adapter.scenarios import scenario
from sidecar.cli.conformance.adapter.stage import Stage
from sidecar.cli.conformance.verdict import Broken


@scenario("life")
async def life(stage: Stage) -> None:
    """A request's arrival, rows, batches and end reach both services, its end once."""
    await stage.ready("a", "b")
    for _ in range(3):
        number = await stage.engine.step("a", "b")
    await stage.rows_arrive()
    await _batch_arrives(stage, number)
    await stage.engine.finish("a")
    await stage.known()
    await _batch_arrives(stage, await stage.engine.step("b"))
    await stage.engine.finish("b")
    await stage.known()
    # Whatever was still to come has come, now that the next one is known.
    await stage.engine.arrive("c")
    await stage.known()
    for kind, ends in (("predictor", _forgotten(stage)), ("scheduler", _outcomes(stage))):
        if len(ends) != 2:
            raise Broken(f"2 ends at the {kind}, each once", f"{len(ends)}")


@scenario("preempted")
async def preempted(stage: Stage) -> None:
    """Preemptions, by whomever, are told to the scheduler once each."""
    await stage.ready("a", "b")
    await stage.engine.step("a", "b")
    await stage.engine.step("a", preempted=["b"])
    await _batch_arrives(stage, await stage.engine.step("a"))
    await _batch_arrives(stage, await stage.engine.step("a", "b"))
    handle = stage.handle("b")
    told = [each for delta in _deltas(stage) for each in delta.preempted]
    if told != [handle]:
        raise Broken(f"one preemption, of handle {handle}", f"{told}")


@scenario("id-reused")
async def id_reused(stage: Stage) -> None:
    """An id that ends and comes again at once is a new request to both services."""
    await stage.ready("a", "b")
    await stage.engine.step("a", "b")
    await stage.rows_arrive()
    await stage.engine.finish("a")
    await stage.engine.arrive("a")
    for kind, service in stage.services:
        await stage.until(
            lambda service=service: _declared(service.now, "a") == 2,  # type: ignore[misc]
            f"'a' is declared anew to the {kind}",
            lambda service=service: f"it was declared {_declared(service.now, 'a')} times",  # type: ignore[misc]
        )
    await stage.known()
    await stage.engine.step("a", "b")
    await stage.rows_arrive()


@scenario("row-errors")
async def row_errors(stage: Stage) -> None:
    """A row that the predictor cannot use ends no stream."""
    await stage.ready("a")
    stage.predictor.refusing_rows = True
    await stage.engine.step("a")
    await stage.rows_arrive()
    stage.predictor.refusing_rows = False
    for _ in range(3):
        await stage.engine.step("a")
        await stage.rows_arrive()
    if len(stage.predictor.streams) > 1:
        raise Broken("one predictor stream", f"{len(stage.predictor.streams)} of them")


def _declared(stream: Any, request_id: str) -> int:
    if stream is None:
        return 0
    told = [*stream.messages[0].open.requests] if stream.messages else []
    told += [declared for message in stream.messages[1:] for declared in _new(message)]
    return sum(declared.request_id == request_id for declared in told)


def _new(message: Any) -> Any:
    return message.step.declared if message.WhichOneof("message") == "step" else message.delta.arrived


def _deltas(stage: Stage) -> list[Any]:
    return [message.delta for stream in stage.scheduler.streams for message in stream.messages[1:]]


def _outcomes(stage: Stage) -> list[int]:
    return [outcome.handle for delta in _deltas(stage) for outcome in delta.finished]


def _forgotten(stage: Stage) -> list[int]:
    steps = [message.step for stream in stage.predictor.streams for message in stream.messages[1:]]
    return [handle for step in steps for handle in step.finished]


async def _batch_arrives(stage: Stage, number: int) -> None:
    def newest() -> int:
        told = [KV_BLOCKS - delta.free_kv_blocks for delta in _deltas(stage) if delta.HasField("running")]
        return max(told, default=0)

    await stage.until(
        lambda: newest() >= number,
        f"the batch of step {number} at the scheduler",
        lambda: f"the newest is that of step {newest()}" if newest() else "no batch came",
    )
