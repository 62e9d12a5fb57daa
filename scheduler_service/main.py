"""Runs the scheduler service: `python -m scheduler_service.main`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import grpc

from scheduler_service.choice import PolicyBook
from scheduler_service.outcomes import OutcomeLog
from scheduler_service.service import SchedulerAdminServicer, SchedulerServicer
from scheduler_service.sessions import Sessions
from scheduler_service.settings import SchedulerSettings
from scheduler_service.store_watch import COMPONENT, watch_store
from sidecar import log
from sidecar.health import Health
from sidecar.redis import connect
from sidecar.server import run, serve
from sidecar.settings import load
from sidecar.stopping import stop
from sidecar.tracing import Tracing, exporting
from trail.v1 import scheduler_pb2, scheduler_pb2_grpc

_OUTCOME_FLUSH_S = 1.0


async def scheduler(settings: SchedulerSettings, ready: Callable[[int], None] | None = None) -> None:
    """Serve until told to stop; `ready` is told the port."""
    with exporting("trail-scheduler", settings.otlp_endpoint) as tracing:
        await _serve(settings, tracing, ready)


async def _serve(settings: SchedulerSettings, tracing: Tracing, ready: Callable[[int], None] | None) -> None:
    redis = connect(settings.redis_url, settings.redis_timeout_ms)
    health = Health(COMPONENT)
    book = PolicyBook(settings.choice)
    outcomes = OutcomeLog(redis, settings.outcomes_max_entries)
    sessions = Sessions(redis, book, outcomes, settings, tracing)

    def add_services(server: grpc.aio.Server) -> Sequence[str]:
        scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(SchedulerServicer(sessions, book, settings), server)
        scheduler_pb2_grpc.add_SchedulerAdminServiceServicer_to_server(SchedulerAdminServicer(sessions, book), server)
        return [each.full_name for each in scheduler_pb2.DESCRIPTOR.services_by_name.values()]

    async def drain() -> None:
        sessions.drain()
        await outcomes.flush(_OUTCOME_FLUSH_S)

    background = [asyncio.create_task(watch_store(redis, health)), asyncio.create_task(outcomes.run())]
    try:
        await run("scheduler", settings, add_services, health, drain=drain, ready=ready)
    finally:
        await stop(background)
        await redis.aclose()


def main(argv: Sequence[str] | None = None) -> None:
    """The process: settings from flags, environment and file, then serve until SIGTERM or SIGINT."""
    settings = load(SchedulerSettings, argv)
    log.configure(settings.log_level, settings.log_format)
    serve(scheduler(settings))


if __name__ == "__main__":
    main()
