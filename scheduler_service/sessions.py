"""The engines that are connected now, each with one stream; a newer stream ends the older one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import structlog
from redis.asyncio import Redis

from scheduler_service import metrics
from scheduler_service.choice import PolicyBook
from scheduler_service.experiments.live import LiveExperiments
from scheduler_service.experiments.store import ExperimentStore
from scheduler_service.messages import Open
from scheduler_service.outcomes import OutcomeLog
from scheduler_service.session import EngineSession
from scheduler_service.settings import SchedulerSettings
from scheduler_service.subscriber import PredictionSubscriber
from sidecar import log
from sidecar.errors import Refused
from sidecar.stopping import stop
from sidecar.tracing import Tracing
from sidecar.turns import Turns


class Sessions:
    """Engine id to the session that holds it."""

    def __init__(
        self,
        redis: Redis,
        book: PolicyBook,
        outcomes: OutcomeLog,
        experiments: ExperimentStore,
        settings: SchedulerSettings,
        tracing: Tracing,
    ) -> None:
        self._redis = redis
        self.experiments = LiveExperiments(experiments, book, self.longest_waits_s)
        self._outcomes = outcomes
        self._settings = settings
        self._tracing = tracing
        self._of_engine: dict[str, EngineSession] = {}
        self._gone: dict[str, None] = {}
        """Engines whose series are still told, those longest gone first."""
        self._draining = False
        self._turns = Turns()
        self._log = structlog.get_logger("sessions")

    @contextlib.asynccontextmanager
    async def hold(self, opened: Open) -> AsyncIterator[EngineSession]:
        """A session with its subscription, for as long as its stream lives. Raises Refused while draining or full."""
        if self._draining:
            raise Refused(grpc.StatusCode.UNAVAILABLE, "the scheduler is shutting down")
        if len(self._of_engine) >= self._settings.max_engines and opened.engine_id not in self._of_engine:
            limit = self._settings.max_engines
            text = f"open.engine_id: too many engines are connected (limit {limit})"
            raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, text, retry_after_ms=self._turns.next_ms())
        log.of_engine(opened.engine_id)
        session = EngineSession(opened, self.experiments, self._outcomes, self._settings, self._tracing)
        self._fence(session)
        subscriber = PredictionSubscriber(self._redis, session.engine_id, session.epoch.incarnation, session)
        following = asyncio.create_task(subscriber.run())
        self._log.info("engine connected", epoch=str(session.epoch))
        metrics.STREAMS.inc()
        try:
            yield session
        finally:
            await stop([following])
            metrics.STREAMS.dec()
            if self._of_engine.get(session.engine_id) is session:
                del self._of_engine[session.engine_id]
                session.watch.gone()
                self._forget_oldest(session.engine_id)
            self._log.info("engine gone", epoch=str(session.epoch))

    def policy_changed(self, engine_id: str) -> None:
        """Have the engine, or with an empty id every engine, planned for anew."""
        for session in self._of_engine.values():
            if engine_id in ("", session.engine_id):
                session.on_policy()

    def longest_waits_s(self) -> dict[str, float]:
        """The longest that a request waits now, by engine."""
        return {engine_id: session.longest_wait_s() for engine_id, session in self._of_engine.items()}

    def drain(self) -> None:
        """End every stream and take no new one."""
        self._draining = True
        for session in self._of_engine.values():
            session.end(Refused(grpc.StatusCode.UNAVAILABLE, "the scheduler is shutting down"))

    def _forget_oldest(self, gone: str) -> None:
        """Names of engines are whatever clients say: the series of as many as may be connected outlive them."""
        self._gone[gone] = None
        while len(self._gone) > self._settings.max_engines:
            oldest = next(iter(self._gone))
            del self._gone[oldest]
            metrics.forget(oldest)

    def _fence(self, session: EngineSession) -> None:
        older = self._of_engine.get(session.engine_id)
        self._of_engine[session.engine_id] = session
        self._gone.pop(session.engine_id, None)
        if older is not None:
            metrics.FENCED.inc()
            older.watch.gone()
            older.end(
                Refused(
                    grpc.StatusCode.ABORTED,
                    f"engine {session.engine_id} is held by epoch {session.epoch} now, not {older.epoch}",
                )
            )
