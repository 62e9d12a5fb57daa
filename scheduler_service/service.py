"""The gRPC face of the scheduler."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import grpc

from scheduler_service import wire, wire_policy
from scheduler_service.choice import PolicyBook
from scheduler_service.messages import Open
from scheduler_service.one_shot import view_of
from scheduler_service.pairing import PAIRINGS
from scheduler_service.planner import make_plan
from scheduler_service.policies import POLICIES
from scheduler_service.session import EngineSession
from scheduler_service.sessions import Sessions
from scheduler_service.settings import SchedulerSettings
from scheduler_service.shared_policies import SharedPolicies
from sidecar.errors import InvalidField, Refused, abort
from sidecar.redis import STORE_ERRORS
from sidecar.stream_age import announce
from trail.v1 import scheduler_pb2, scheduler_pb2_grpc

_Context = grpc.aio.ServicerContext[Any, Any]


class SchedulerServicer(scheduler_pb2_grpc.SchedulerServiceServicer):
    """Coordinate and Plan."""

    def __init__(self, sessions: Sessions, book: PolicyBook, settings: SchedulerSettings) -> None:
        self._sessions = sessions
        self._book = book
        self._settings = settings

    async def Coordinate(self, request_iterator: Any, context: _Context) -> None:  # type: ignore[override]
        """State deltas in, plans out, until either side ends the stream."""
        try:
            opened = await self._read_opening(context)
            if opened is not None:
                async with self._sessions.hold(opened) as session:
                    await announce(context, self._settings.max_connection_age_s)
                    await self._greet(session, context)
                    await self._serve(session, context)
        except (InvalidField, Refused) as error:
            await abort(context, error)

    async def Plan(self, request: scheduler_pb2.PlanRequest, context: _Context) -> scheduler_pb2.PlanResponse:
        """One plan for the state that the request tells."""
        try:
            choice = wire_policy.changed(self._book.get(""), request.policy)
            view = view_of(request, self._settings)
        except InvalidField as error:
            await abort(context, error)
        plan = make_plan(view, choice, self._settings.limits)
        return scheduler_pb2.PlanResponse(plan=wire_policy.plan(plan, 1, self._settings.plan_ttl_ms))

    async def _read_opening(self, context: _Context) -> Open | None:
        first = await context.read()
        if first is grpc.aio.EOF:
            return None
        if first.WhichOneof("message") != "open":
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, "the first message must be open")
        wire.check_counts(len(first.open.requests), 0, self._settings.max_requests_per_engine, "open.requests")
        return wire.opening(first.open)

    async def _greet(self, session: EngineSession, context: _Context) -> None:
        opened = scheduler_pb2.CoordinateOpened(
            epoch=wire_policy.epoch(session.epoch),
            policy=wire_policy.settings(self._book.get(session.engine_id)),
        )
        await context.write(scheduler_pb2.CoordinateResponse(opened=opened))

    async def _serve(self, session: EngineSession, context: _Context) -> None:
        """Read, plan and watch for a newer stream; the first of them to end ends all."""
        tasks = [
            asyncio.create_task(self._read(session, context)),
            asyncio.create_task(self._write(session, context)),
            asyncio.create_task(_refused(session)),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        for task in done:
            task.result()

    async def _read(self, session: EngineSession, context: _Context) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            if message.WhichOneof("message") != "delta":
                raise Refused(grpc.StatusCode.FAILED_PRECONDITION, "only deltas may follow open")
            delta, most = message.delta, self._settings.max_requests_per_engine
            wire.check_counts(len(delta.arrived), max(len(delta.finished), len(delta.preempted)), most, "delta.arrived")
            session.apply(wire.delta(delta, self._settings.max_rows_per_step))

    async def _write(self, session: EngineSession, context: _Context) -> None:
        async with contextlib.aclosing(session.plans()) as plans:  # type: ignore[type-var]
            async for planned in plans:
                message = wire_policy.plan(
                    planned.plan, planned.number, planned.ttl_ms, session.epoch, planned.traceparent
                )
                await context.write(scheduler_pb2.CoordinateResponse(plan=message))


async def _refused(session: EngineSession) -> None:
    raise await session.ended()


class SchedulerAdminServicer(scheduler_pb2_grpc.SchedulerAdminServiceServicer):
    """Changes and tells policies while the scheduler runs."""

    def __init__(self, book: PolicyBook, shared: SharedPolicies) -> None:
        self._book = book
        self._shared = shared

    async def SetPolicy(
        self, request: scheduler_pb2.SetPolicyRequest, context: _Context
    ) -> scheduler_pb2.SetPolicyResponse:
        """What the request leaves out stays as it was, whichever replica was told of it; the next plan is made by the
        new choice."""
        try:
            engine_id = request.engine_id and wire.engine_id(request.engine_id, "engine_id")
            # What is wrong in any case is refused before the store is asked.
            wire_policy.changed(self._book.get(engine_id), request.policy)
            await self._shared.refresh()
            choice = wire_policy.changed(self._book.get(engine_id), request.policy)
            await self._shared.set(engine_id, choice)
        except InvalidField as error:
            await abort(context, error)
        except STORE_ERRORS as error:
            reason = str(error) or type(error).__name__
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"nothing was changed, the store is gone: {reason}")
        return scheduler_pb2.SetPolicyResponse(policy=wire_policy.settings(choice))

    async def GetPolicy(
        self, request: scheduler_pb2.GetPolicyRequest, context: _Context
    ) -> scheduler_pb2.GetPolicyResponse:
        """The policy that holds for an engine, or the default."""
        return scheduler_pb2.GetPolicyResponse(policy=wire_policy.settings(self._book.get(request.engine_id)))

    async def ListPolicies(
        self, request: scheduler_pb2.ListPoliciesRequest, context: _Context
    ) -> scheduler_pb2.ListPoliciesResponse:
        """Names that SetPolicy takes."""
        return scheduler_pb2.ListPoliciesResponse(policies=list(POLICIES), predictors=list(PAIRINGS))
