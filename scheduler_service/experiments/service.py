"""The gRPC face of experiments."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
from redis.asyncio import Redis

from scheduler_service.experiments import wire
from scheduler_service.experiments.blocks import closed_blocks
from scheduler_service.experiments.pilot import Pilot
from scheduler_service.experiments.proposal import propose
from scheduler_service.experiments.record import Ending, Record, State
from scheduler_service.experiments.store import ExperimentStore
from sidecar.errors import InvalidField, Refused, abort
from sidecar.redis import STORE_ERRORS
from trail.v1 import experiment_pb2, experiment_pb2_grpc

START_IN_S = 3.0
"""Until then every replica has read of it."""

_Context = grpc.aio.ServicerContext[Any, Any]
_T = TypeVar("_T")


class ExperimentServicer(experiment_pb2_grpc.ExperimentServiceServicer):
    """Everything is read from the store and written to it; the loop of `LiveExperiments` follows what it says."""

    def __init__(self, redis: Redis, store: ExperimentStore) -> None:
        self._redis = redis
        self._store = store

    async def CreateExperiment(
        self, request: experiment_pb2.CreateExperimentRequest, context: _Context
    ) -> experiment_pb2.CreateExperimentResponse:
        return await _answered(context, lambda: self._create(request))

    async def StartExperiment(
        self, request: experiment_pb2.StartExperimentRequest, context: _Context
    ) -> experiment_pb2.StartExperimentResponse:
        return await _answered(context, lambda: self._start(request))

    async def StopExperiment(
        self, request: experiment_pb2.StopExperimentRequest, context: _Context
    ) -> experiment_pb2.StopExperimentResponse:
        return await _answered(context, lambda: self._stop(request))

    async def ListExperiments(
        self, request: experiment_pb2.ListExperimentsRequest, context: _Context
    ) -> experiment_pb2.ListExperimentsResponse:
        return await _answered(context, self._list)

    async def GetExperiment(
        self, request: experiment_pb2.GetExperimentRequest, context: _Context
    ) -> experiment_pb2.GetExperimentResponse:
        return await _answered(context, lambda: self._get(request))

    async def _create(self, request: experiment_pb2.CreateExperimentRequest) -> experiment_pb2.CreateExperimentResponse:
        looked = await self._store.look()
        connected = await self._store.connected(looked.store_s)
        given = wire.given(request.design, connected)
        if request.design.name in looked.records:
            raise Refused(
                grpc.StatusCode.ALREADY_EXISTS, f"design.name: {request.design.name!r} is taken; choose another"
            )
        _check_artefacts(given["arms"], await self._store.artefacts(looked.store_s))
        pilot = await Pilot.read(self._redis, given["engines"])
        proposal = await asyncio.to_thread(propose, given, request.minimum_effect, request.power, pilot)
        if not request.dry_run and not await self._store.create(proposal.design, looked.store_s):
            raise Refused(
                grpc.StatusCode.ALREADY_EXISTS, f"design.name: {request.design.name!r} is taken; choose another"
            )
        return experiment_pb2.CreateExperimentResponse(
            design=wire.design(proposal.design),
            pairs_needed=proposal.pairs_needed,
            power=proposal.power,
            notes=proposal.notes,
        )

    async def _start(self, request: experiment_pb2.StartExperimentRequest) -> experiment_pb2.StartExperimentResponse:
        looked = await self._store.look()
        record, name, now_s = _found(looked.records, request.name), request.name, looked.store_s
        if record.state(now_s) is not State.CREATED:
            state = record.state(now_s).value
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, f"name: {name!r} is {state}; an experiment starts once")
        missing = sorted(set(record.design.engines) - set(await self._store.connected(now_s)))
        if missing:
            text = f"design.engine_ids: no scheduler serves {', '.join(missing)} now; connect them first"
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, text)
        await self._take_engines(record, looked.records, now_s)
        start_s = now_s + START_IN_S
        if not await self._store.start(name, start_s):
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, f"name: {name!r} was started by somebody else just now")
        held = (await self._store.look()).claims
        lost = [engine_id for engine_id in record.design.engines if held.get(engine_id) != name]
        if lost:
            await self._stop(experiment_pb2.StopExperimentRequest(name=name, reason="lost its engines at the start"))
            text = f"design.engine_ids: {', '.join(lost)} went to another experiment that started at the same moment"
            raise Refused(grpc.StatusCode.ABORTED, f"{text}; {name!r} is stopped, create it anew")
        return experiment_pb2.StartExperimentResponse(start_s=start_s, end_s=start_s + record.design.duration_s)

    async def _take_engines(self, record: Record, others: Any, now_s: float) -> None:
        """All of them or none."""
        name = record.design.name
        taken: dict[str, str] = {}
        for engine_id in record.design.engines:
            holder = await self._store.claim(engine_id, name)
            other = others.get(holder)
            if other is not None and other.state(now_s) in (State.FINISHED, State.STOPPED):
                # Nobody reads its claim any more.
                await self._store.release({engine_id: holder})
                holder = await self._store.claim(engine_id, name)
            if holder != name:
                other = others.get(holder)
                await self._store.release(taken)
                text = f"design.engine_ids: {engine_id!r} takes part in {holder!r}; stop that, or wait for its end"
                if other is None:
                    text += " (this release cannot read it)"
                raise Refused(grpc.StatusCode.FAILED_PRECONDITION, text)
            taken[engine_id] = name

    async def _stop(self, request: experiment_pb2.StopExperimentRequest) -> experiment_pb2.StopExperimentResponse:
        looked = await self._store.look()
        record = _found(looked.records, request.name)
        news = await self._store.stop(request.name, Ending(looked.store_s, request.reason))
        # Whoever stopped it before may not have come this far.
        await self._store.release(dict.fromkeys(record.design.engines, request.name))
        if not news:
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, f"name: {request.name!r} was stopped before")
        return experiment_pb2.StopExperimentResponse()

    async def _list(self) -> experiment_pb2.ListExperimentsResponse:
        looked = await self._store.look()
        newest = sorted(looked.records.values(), key=lambda record: -record.created_s)
        return experiment_pb2.ListExperimentsResponse(
            experiments=[wire.experiment(record, looked.store_s) for record in newest]
        )

    async def _get(self, request: experiment_pb2.GetExperimentRequest) -> experiment_pb2.GetExperimentResponse:
        looked = await self._store.look()
        record = _found(looked.records, request.name)
        blocks = await closed_blocks(self._store, record, looked.store_s)
        engines = record.design.engines if record.design.shadow_arms else ()
        compared = [each for engine in engines for each in await self._store.shadows(engine, request.name)]
        return experiment_pb2.GetExperimentResponse(
            experiment=wire.experiment(record, looked.store_s),
            blocks=[wire.block(block) for block in blocks],
            shadows=wire.shadows(compared),
        )


def _check_artefacts(arms: list[dict[str, Any]], loaded: dict[str, Any]) -> None:
    """Raises InvalidField where no predictor has one, or two read other layers: an engine's tap reads but one set."""
    named = [arm["artefact"] for arm in arms if arm["artefact"]]
    for name in named:
        if name not in loaded:
            known = ", ".join(sorted(loaded)) or "none"
            raise InvalidField("arms.artefact", f"no predictor has loaded {name!r} (there are: {known})")
        if loaded[name] != loaded[named[0]]:
            raise InvalidField("arms.artefact", f"{name!r} and {named[0]!r} read other layers; an engine sends one set")


def _found(records: Any, name: str) -> Record:
    record: Record | None = records.get(name)
    if record is None:
        known = ", ".join(sorted(records)) or "none"
        raise Refused(grpc.StatusCode.NOT_FOUND, f"name: there is no experiment {name!r} (there are: {known})")
    return record


async def _answered(context: _Context, work: Callable[[], Awaitable[_T]]) -> _T:
    try:
        return await work()
    except (InvalidField, Refused) as error:
        await abort(context, error)
    except STORE_ERRORS as error:
        text = f"store: {type(error).__name__}: {error}; experiments that run go on"
        await context.abort(grpc.StatusCode.UNAVAILABLE, f"{text}; see by `trail ab status` what was done")
