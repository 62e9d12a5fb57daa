"""The agent as a whole: what it is made of, how it starts and how it ends."""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog
from prometheus_client.registry import CollectorRegistry

from engine_adapter.agent.channel import Channel
from engine_adapter.agent.counters import Counters
from engine_adapter.agent.epochs import EpochMint
from engine_adapter.agent.hops import Hops
from engine_adapter.agent.intake import Intake
from engine_adapter.agent.living import LivingRequests
from engine_adapter.agent.metrics import AgentMetrics
from engine_adapter.agent.plan_book import PlanBook
from engine_adapter.agent.plans import PlanPublisher
from engine_adapter.agent.poller import Poller
from engine_adapter.agent.prediction_book import PredictionBook
from engine_adapter.agent.predictor_link import PredictorLink
from engine_adapter.agent.scheduler_link import SchedulerLink
from engine_adapter.agent.settings import AgentSettings
from engine_adapter.agent.statistics import Statistics
from engine_adapter.bell import Bell
from engine_adapter.board import BoardWriter
from engine_adapter.paths import (
    EVENT_RING_BYTES,
    ROW_RING_BYTES,
    EnginePaths,
    FolderError,
    engine_paths,
    private_folder,
)
from engine_adapter.ring import RingConsumer
from sidecar import log, metrics_port
from sidecar.stopping import first_of, until_told
from sidecar.tracing import Tracing, exporting

STATISTICS_INTERVAL_S = 1.0


class StartError(RuntimeError):
    """The agent cannot start; the text is one line for whoever started it."""


async def run(settings: AgentSettings) -> None:
    """Serves one engine until SIGTERM, SIGINT, cancellation, or the end of the parent where that was asked for.

    Raises:
        StartError: another agent serves this engine, its folder is not ours alone, or the metrics' address is taken.
        RingError: the engine's files are not of this version.
    """
    log.of_engine(settings.engine_id)
    try:
        paths = engine_paths(settings.engine_id, settings.shm_root)
    except ValueError as error:
        raise StartError(f"agent: {error}") from None
    stop = asyncio.Event()
    with (
        _only_agent_of(paths.folder, settings.engine_id),
        until_told(stop, exit_with_parent=settings.exit_with_parent),
        exporting("trail-agent", settings.otlp_endpoint, settings.trace_ratio) as tracing,
    ):
        agent = Agent(settings, paths, tracing=tracing)
        try:
            await agent.serve(stop)
        finally:
            await agent.close()


class Agent:
    """One engine's agent; ``plan_book`` is for those who want to watch its plans."""

    def __init__(
        self,
        settings: AgentSettings,
        paths: EnginePaths,
        plan_book: PlanBook | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._settings, self._paths = settings, paths
        self._log = structlog.get_logger("agent")
        counters, ready = Counters(), asyncio.Event()
        self._board = BoardWriter(paths.board)
        self._events = RingConsumer(paths.events, EVENT_RING_BYTES)
        self._rows = RingConsumer(paths.rows, ROW_RING_BYTES)
        try:
            self._bell = Bell(paths.row_bell)
        except OSError as error:
            raise StartError(f"agent: {error}") from None
        self._epochs = EpochMint()
        hops = Hops(settings.engine_id, tracing or Tracing())
        living = LivingRequests(settings.max_requests, counters)
        predictions, plan_book = PredictionBook(counters), plan_book or PlanBook(counters)
        self._plans = PlanPublisher(self._board, plan_book, settings.plan_ttl_limit_ms, counters, hops)
        self._predictor_channel = Channel(settings.predictor_target, settings)
        self._scheduler_channel = Channel(settings.scheduler_target, settings)
        self._predictor = PredictorLink(
            self._predictor_channel, settings, self._epochs, ready, living, predictions, counters, hops
        )
        self._scheduler = SchedulerLink(
            self._scheduler_channel, settings, self._epochs, ready, living, self._plans, counters, hops
        )
        intake = Intake(living, self._predictor, self._scheduler, predictions, plan_book, counters)
        self._poller = Poller(
            self._events,
            self._rows,
            self._bell,
            intake,
            ready,
            counters,
            restarted=self._engine_restarted,
            lost=self._reopen,
        )
        links = (self._predictor, self._scheduler)
        self._statistics = Statistics(counters, plan_book, living, links, hops)
        self._exported = AgentMetrics(settings.engine_id, counters, plan_book, living, links, hops)

    async def serve(self, stop: asyncio.Event) -> None:
        """Runs all parts until ``stop`` is set; an exception in any of them ends the agent."""
        # A plan that a predecessor left is not this agent's to keep alive.
        self._plans.withdraw()
        with self._metrics():
            self._log.info("ready", folder=str(self._paths.folder))
            await first_of(
                self._poller.run(self._settings.poll_interval_ms / 1000, self._settings.idle_poll_interval_ms / 1000),
                self._predictor.run(),
                self._scheduler.run(),
                self._write_statistics(),
                stop.wait(),
            )

    def snapshot(self) -> dict[str, Any]:
        """The agent's numbers now."""
        return self._statistics.snapshot()

    async def close(self) -> None:
        """Lets go of everything; the plan was withdrawn with its stream."""
        self._statistics.write(self._statistics_path)
        await self._predictor_channel.close()
        await self._scheduler_channel.close()
        for part in (self._board, self._events, self._rows, self._bell):
            part.close()
        self._log.info("stopped")

    @property
    def _statistics_path(self) -> Path:
        return self._paths.folder / "statistics.json"

    def _engine_restarted(self) -> None:
        self._epochs.renew()
        self._reopen()

    def _reopen(self) -> None:
        self._predictor.reopen()
        self._scheduler.reopen()

    async def _write_statistics(self) -> None:
        while True:
            self._statistics.write(self._statistics_path)
            await asyncio.sleep(STATISTICS_INTERVAL_S)

    @contextlib.contextmanager
    def _metrics(self) -> Iterator[None]:
        if self._settings.metrics_port == 0:
            yield
            return
        registry = CollectorRegistry()
        registry.register(self._exported)
        host, port = self._settings.metrics_host, self._settings.metrics_port
        with contextlib.ExitStack() as parts:
            try:
                parts.enter_context(metrics_port.serving(host, port, registry))
            except OSError as error:
                raise StartError(f"agent: cannot serve metrics on {host}:{port}: {error.strerror}") from None
            yield


@contextlib.contextmanager
def _only_agent_of(folder: Path, engine_id: str) -> Iterator[None]:
    """Holds the engine's lock: a ring has one reader, a board one writer. The kernel frees it at the end."""
    try:
        private_folder(folder)
    except FolderError as error:
        raise StartError(f"agent: {error}") from None
    lock = os.open(folder / "agent.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise StartError(f"agent: another agent serves engine {engine_id} ({folder})") from None
    finally:
        os.close(lock)
