"""Starts the predictor service: `python -m predictor_service.main --help`."""

import asyncio
from collections.abc import Callable, Sequence

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from predictor_service import signature
from predictor_service.admission import Admission
from predictor_service.arms import Arms
from predictor_service.availability import COMPONENT as STORE
from predictor_service.availability import Availability
from predictor_service.canary import Canary, CanarySettings
from predictor_service.catalogue import Catalogue
from predictor_service.drift import Drift
from predictor_service.engines import Engines
from predictor_service.following import Follower
from predictor_service.journal import Journal
from predictor_service.live import Windows
from predictor_service.outcomes_reader import OutcomeReader
from predictor_service.recorder import Recorder, RecorderSettings
from predictor_service.reloading import watch
from predictor_service.service import PredictorService
from predictor_service.settings import PredictorSettings
from predictor_service.store import Store
from predictor_service.verdicts import Verdicts
from sidecar import log, redis, server
from sidecar.errors import Refused
from sidecar.health import Health
from sidecar.settings import load
from sidecar.stopping import stop
from sidecar.tracing import Tracing, exporting
from trail.v1 import predictor_pb2, predictor_pb2_grpc

MODEL = "model"


async def run(settings: PredictorSettings, *, ready: Callable[[int], None] | None = None) -> None:
    """Serves until SIGTERM or cancellation; `ready` is told the port."""
    with exporting("trail-predictor", settings.otlp_endpoint) as tracing:
        await _serve(settings, tracing, ready)


async def _serve(settings: PredictorSettings, tracing: Tracing, ready: Callable[[int], None] | None) -> None:
    health = Health(MODEL, STORE)
    catalogue = Catalogue(
        settings.model_dir,
        default=settings.default_model,
        threads=settings.model_threads,
        int8=settings.model_int8,
        signed_by=_signer(settings),
    )
    recorder = _recorder(settings)
    admission = Admission(most_rows_per_s=settings.max_rows_per_s, most_queue_ms=settings.max_queue_ms)
    engines = Engines(
        most=settings.max_engines,
        max_requests=settings.max_requests_per_engine,
        recorder=recorder,
        admission=admission,
    )
    async with redis.connect(settings.redis_url, settings.redis_timeout_ms, settings.redis_access) as client:
        store = Store(client, timeout_ms=settings.redis_timeout_ms, expire_s=settings.posterior_expire_s)
        availability = Availability(store, health, engines.end_degraded)
        journal = Journal(most_engines=2 * settings.max_engines)
        windows = Windows(settings.live_window_requests)
        trial = CanarySettings(settings.canary_model, settings.canary_share, settings.canary_requests)
        canary = Canary(trial, catalogue, windows, Verdicts(client))
        follower = Follower(catalogue, journal, OutcomeReader(client), windows, Drift(windows), canary)
        arms = Arms(client, catalogue, lambda: engines.streaming)
        service = PredictorService(
            settings, catalogue, canary, arms, journal, engines, store, availability, tracing, admission
        )

        def add_services(grpc_server: grpc.aio.Server) -> Sequence[str]:
            predictor_pb2_grpc.add_PredictorServiceServicer_to_server(service, grpc_server)
            return [predictor_pb2.DESCRIPTOR.services_by_name["PredictorService"].full_name]

        async def drain() -> None:
            engines.end_all(Refused(grpc.StatusCode.UNAVAILABLE, "the predictor is shutting down"))

        async def models_changed() -> None:
            health.set(MODEL, not catalogue.problem, catalogue.problem or catalogue.degraded)
            await canary.refresh()

        await asyncio.to_thread(catalogue.refresh)
        # Streams that open before the store is reached would have to open again.
        await availability.attempt()
        await models_changed()
        background = [
            asyncio.create_task(availability.watch()),
            asyncio.create_task(admission.watch(engines.shed)),
            asyncio.create_task(watch(catalogue, settings.model_poll_s, models_changed)),
            asyncio.create_task(follower.run(settings.outcome_poll_s)),
            asyncio.create_task(arms.run()),
        ]
        try:
            await server.run("predictor", settings, add_services, health, drain=drain, ready=ready)
        finally:
            await stop(background)
            if recorder is not None:
                await asyncio.to_thread(recorder.close)


def _signer(settings: PredictorSettings) -> Ed25519PublicKey | None:
    if settings.model_public_key_file is None:
        return None
    try:
        return signature.public_key(settings.model_public_key_file)
    except ValueError as error:
        raise server.StartError(f"predictor: model_public_key_file {error}") from None


def _recorder(settings: PredictorSettings) -> Recorder | None:
    if settings.record_dir is None:
        return None
    return Recorder(RecorderSettings(settings.record_dir, settings.record_every, settings.record_max_bytes))


def main(argv: Sequence[str] | None = None) -> None:
    """Reads settings (flags > environment TRAIL_PREDICTOR_* > TOML file > defaults) and serves."""
    settings = load(PredictorSettings, argv)
    log.configure(settings.log_level, settings.log_format)
    server.serve(run(settings))


if __name__ == "__main__":
    main()
