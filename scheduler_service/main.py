"""Runs the scheduler service: `python -m scheduler_service.main`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

import grpc

from scheduler_service.choice import PolicyBook
from scheduler_service.experiments.service import ExperimentServicer
from scheduler_service.experiments.store import ExperimentStore
from scheduler_service.outcomes import OutcomeLog
from scheduler_service.service import SchedulerAdminServicer, SchedulerServicer
from scheduler_service.sessions import Sessions
from scheduler_service.settings import SchedulerSettings
from scheduler_service.shared_policies import SharedPolicies
from scheduler_service.store_watch import COMPONENT, watch_store
from sidecar import log
from sidecar.health import Health
from sidecar.redis import STORE_ERRORS, connect
from sidecar.server import run, serve
from sidecar.settings import load
from sidecar.stopping import stop
from sidecar.tracing import Tracing, exporting
from trail.v1 import experiment_pb2, experiment_pb2_grpc, scheduler_pb2, scheduler_pb2_grpc

_OUTCOME_FLUSH_S = 1.0


async def scheduler(settings: SchedulerSettings, ready: Callable[[int], None] | None = None) -> None:
    """Serve until told to stop; `ready` is told the port."""
    with exporting("trail-scheduler", settings.otlp_endpoint) as tracing:
        await _serve(settings, tracing, ready)


async def _serve(settings: SchedulerSettings, tracing: Tracing, ready: Callable[[int], None] | None) -> None:
    redis = connect(settings.redis_url, settings.redis_timeout_ms, settings.redis_access)
    health = Health(COMPONENT)
    book = PolicyBook(settings.choice)
    outcomes = OutcomeLog(redis, settings.outcomes_max_entries)
    experiments = ExperimentStore(redis)
    sessions = Sessions(redis, book, outcomes, experiments, settings, tracing)
    policies = SharedPolicies(redis, book, sessions.policy_changed)

    def add_services(server: grpc.aio.Server) -> Sequence[str]:
        scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(SchedulerServicer(sessions, book, settings), server)
        scheduler_pb2_grpc.add_SchedulerAdminServiceServicer_to_server(SchedulerAdminServicer(book, policies), server)
        experiment_pb2_grpc.add_ExperimentServiceServicer_to_server(ExperimentServicer(redis, experiments), server)
        services = (scheduler_pb2.DESCRIPTOR.services_by_name, experiment_pb2.DESCRIPTOR.services_by_name)
        return [each.full_name for of_file in services for each in of_file.values()]

    async def drain() -> None:
        sessions.drain()
        await outcomes.flush(_OUTCOME_FLUSH_S)
        await sessions.experiments.flush()

    with contextlib.suppress(*STORE_ERRORS):
        # Before the first plan, where the store is there: what was chosen holds, not the settings.
        await policies.refresh()
    parts = (watch_store(redis, health), outcomes.run(), policies.watch(), sessions.experiments.run())
    background = [asyncio.create_task(part) for part in parts]
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
