"""Starts the predictor service: `python -m predictor_service.main --help`."""

import asyncio
from collections.abc import Callable, Sequence

import grpc

from predictor_service.availability import COMPONENT as STORE
from predictor_service.availability import Availability
from predictor_service.catalogue import Catalogue
from predictor_service.engines import Engines
from predictor_service.service import PredictorService
from predictor_service.settings import PredictorSettings
from predictor_service.store import Store
from sidecar import log, redis, server
from sidecar.errors import Refused
from sidecar.health import Health
from sidecar.settings import load
from sidecar.stopping import stop
from trail.v1 import predictor_pb2, predictor_pb2_grpc

MODEL = "model"


async def run(settings: PredictorSettings, *, ready: Callable[[int], None] | None = None) -> None:
    """Serves until SIGTERM or cancellation; `ready` is told the port."""
    health = Health(MODEL, STORE)
    catalogue = Catalogue(settings.model_dir, default=settings.default_model, threads=settings.model_threads)
    engines = Engines(most=settings.max_engines, max_requests=settings.max_requests_per_engine)
    async with redis.connect(settings.redis_url, settings.redis_timeout_ms) as client:
        store = Store(client, timeout_ms=settings.redis_timeout_ms, expire_s=settings.posterior_expire_s)
        availability = Availability(store, health, engines.end_degraded)
        service = PredictorService(settings, catalogue, engines, store, availability)

        def add_services(grpc_server: grpc.aio.Server) -> Sequence[str]:
            predictor_pb2_grpc.add_PredictorServiceServicer_to_server(service, grpc_server)
            return [predictor_pb2.DESCRIPTOR.services_by_name["PredictorService"].full_name]

        async def drain() -> None:
            engines.end_all(Refused(grpc.StatusCode.UNAVAILABLE, "the predictor is shutting down"))

        await asyncio.to_thread(catalogue.refresh)
        health.set(MODEL, not catalogue.problem, catalogue.problem)
        # Streams that open before the store is reached would have to open again.
        await availability.attempt()
        watching = asyncio.create_task(availability.watch())
        try:
            await server.run("predictor", settings, add_services, health, drain=drain, ready=ready)
        finally:
            await stop([watching])


def main(argv: Sequence[str] | None = None) -> None:
    """Reads settings (flags > environment TRAIL_PREDICTOR_* > TOML file > defaults) and serves."""
    settings = load(PredictorSettings, argv)
    log.configure(settings.log_level, settings.log_format)
    server.serve(run(settings))


if __name__ == "__main__":
    main()
