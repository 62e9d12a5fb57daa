"""All parts of a running system, each behind a proxy and within reach of faults."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sidecar.redis import keys
from tests import artefacts
from tests.chaos.clock import ClockOffset
from tests.chaos.engine import DIM, LoadedEngine
from tests.chaos.processes import Agent, Service, until
from tests.chaos.proxy import FaultProxy, Loop
from tests.chaos.store import Store

ENGINE_ID = "engine-chaos"
PLAN_TTL_MS = 1_000
GONE_S = 30
"""After which a state that is still there counts as leaked."""


@dataclass
class System:
    """One engine under load, everything that steers it, and the folder in which all of it lies."""

    folder: Path
    loop: Loop
    clock: ClockOffset
    """Of services and agent."""
    engine_clock: ClockOffset
    """Of this process, in which the engine runs."""
    store: Store
    predictor: Service
    scheduler: Service
    predictor_link: FaultProxy
    scheduler_link: FaultProxy
    engine: LoadedEngine
    agent: Agent

    @property
    def clock_file(self) -> Path:
        return self.folder / "clock"

    @property
    def model_folder(self) -> Path:
        return self.folder / "models"

    def in_order(self) -> bool:
        """Whether plans come that rest on predictions, through parts that are all well."""
        connected = self.agent.metrics.value("trail_agent_connected")
        stores = [service.metrics.value(f"trail_{name}_store_up") for name, service in self._services]
        return self.engine.plan is not None and connected == 2 and stores == [1, 1]

    def refined(self) -> float:
        """How many ranks rested on a prediction that a decode step refined."""
        return self.agent.metrics.value("trail_agent_refined_predictions_used_total") or 0.0

    def until_in_order(self) -> None:
        until(self.in_order, "all parts are well and plans come")
        before = self.refined()
        # An agent that was started again counts from 0.
        until(lambda: self.refined() not in (0, before), "plans rest on refined predictions")
        until(self.in_order, "all parts are well and plans come")

    def leaked_states(self) -> dict[str, int]:
        """States that are left, each part's own figure, once all requests have ended and had time to be told of."""
        with contextlib.suppress(TimeoutError):
            until(lambda: not any(self._states().values()), "every state is gone", GONE_S)
        return self._states()

    @property
    def _services(self) -> list[tuple[str, Service]]:
        return [("predictor", self.predictor), ("scheduler", self.scheduler)]

    def _states(self) -> dict[str, int]:
        with self.store.client() as client:
            records = int(client.hlen(keys(ENGINE_ID).posterior))
        figures = {
            "predictor": self.predictor.metrics.value("trail_predictor_posteriors"),
            "scheduler": self.scheduler.metrics.value("trail_scheduler_requests", engine=ENGINE_ID),
            "agent": self.agent.metrics.value("trail_agent_living_requests"),
        }
        engine = self.engine.simulated.model
        return {
            **{name: -1 if figure is None else int(figure) for name, figure in figures.items()},
            "store": records,
            "engine": engine.capacity.kv_blocks - engine.free_kv_blocks,
        }


@contextlib.contextmanager
def running() -> Iterator[System]:
    """A system of processes on this machine; everything is gone at its end."""
    # A short path: Unix sockets allow about 100 characters.
    with tempfile.TemporaryDirectory(prefix="trail-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        clock = folder / "clock"
        services_clock = ClockOffset(clock)
        engine_clock = ClockOffset(folder / "engine-clock")
        stack.enter_context(engine_clock.installed())
        artefacts.make(folder / "models" / "tiny", hidden_size=DIM)
        loop = Loop()
        stack.callback(loop.close)
        store = Store(loop, folder)
        stack.callback(store.close)
        predictor = Service(
            "predictor_service.main", clock, folder / "predictor.log",
            model_dir=folder / "models", redis_url=store.url, model_poll_s=0.2, record_dir=folder / "recorded",
        )  # fmt: skip
        scheduler = Service(
            "scheduler_service.main", clock, folder / "scheduler.log", redis_url=store.url, plan_ttl_ms=PLAN_TTL_MS
        )
        for service in (predictor, scheduler):
            stack.callback(service.kill)
            service.begin()
        links = [FaultProxy(loop, 0, service.port) for service in (predictor, scheduler)]
        for link in links:
            stack.callback(link.close)
        for service in (predictor, scheduler):
            service.until_ready()
        engine = LoadedEngine(ENGINE_ID, folder / "shm")
        stack.callback(engine.close)
        targets = {
            "predictor_target": f"127.0.0.1:{links[0].address}", "scheduler_target": f"127.0.0.1:{links[1].address}"
        }  # fmt: skip
        agent = Agent(clock, folder / "agent.log", {"engine_id": ENGINE_ID, "shm_root": folder / "shm", **targets})
        stack.callback(agent.close)
        yield System(
            folder, loop, services_clock, engine_clock, store, predictor, scheduler, links[0], links[1], engine, agent
        )
