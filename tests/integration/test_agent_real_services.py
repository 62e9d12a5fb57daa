"""The whole loop without a real LLM: simulated engine, agent, predictor service, Valkey, scheduler service."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests import artefacts
from tests.conftest import Valkey
from tests.integration.agent_harness import AgentProcess, Harness
from tests.integration.service_process import ServiceProcess

DIM = 16
PLAN_TTL_MS = 1_000


class Loop:
    def __init__(self, folder: Path, valkey: Valkey, otlp_endpoint: str = "", *, dim: int = DIM, **agent: str) -> None:
        """`dim`: of the rows that the engine sends."""
        model = artefacts.make(folder / "model", hidden_size=DIM, projected=True)
        self.valkey = valkey
        shared = {"redis_url": valkey.url, "otlp_endpoint": otlp_endpoint}
        self.predictor = ServiceProcess("predictor_service.main", model_dir=model, model_poll_s=0.5, **shared)
        self.scheduler = ServiceProcess("scheduler_service.main", plan_ttl_ms=PLAN_TTL_MS, policy="srpt", **shared)
        self._agent_settings = {"otlp_endpoint": otlp_endpoint, **agent}
        self.harness = Harness(folder / "shm", dim)
        self.engine = self.harness.engine

    async def start(self) -> None:
        await asyncio.gather(asyncio.to_thread(self.predictor.start), asyncio.to_thread(self.scheduler.start))
        targets = self.predictor.target, self.scheduler.target
        self.agent = AgentProcess(self.harness.settings(*targets, **self._agent_settings))
        await self.agent.start()

    async def stop(self) -> str:
        """What the agent logged."""
        log = await self.agent.end()
        print(log)
        for service in (self.predictor, self.scheduler):
            service.kill()
            print(*service.log[-20:], sep="")
        return log

    def count(self, name: str) -> int:
        return int(self.harness.statistics()["counters"][name])

    def connected(self) -> bool:
        path = self.harness.paths.folder / "statistics.json"
        return path.exists() and all(self.harness.statistics()["connected"].values())

    async def refined_again(self) -> None:
        """Waits until plans rest on decode-stage predictions that were made after now."""
        await self.harness.until(self.connected)
        used = self.count("refined_predictions_used")
        await self.harness.until(lambda: self.engine.plan and self.count("refined_predictions_used") > used + 20)


@pytest.fixture
async def loop(tmp_path: Path, valkey: Valkey) -> AsyncIterator[Loop]:
    made = Loop(tmp_path, valkey)
    await made.start()
    yield made
    await made.stop()


async def test_requests_are_planned_by_refined_predictions_and_all_end(loop: Loop) -> None:
    await loop.harness.until(loop.connected)
    for length in (200, 20, 120, 40, 160, 80, 30, 60):
        loop.harness.submit(1, output_tokens=length)
    await loop.harness.until(lambda: not loop.engine.living)
    await loop.harness.until(lambda: loop.count("requests_finished") == 8, stepping=False)
    numbers = loop.harness.statistics()
    counters = numbers["counters"]
    assert numbers["refined_share"] > 0.9
    assert counters["predictions_used"] > 300
    assert counters["row_errors"] == counters["plans_rejected"] == counters["handle_collisions"] == 0
    assert counters["predictor_streams_opened"] == counters["scheduler_streams_opened"] == 1
    assert counters["plans_applied"] > 20
    assert numbers["prediction_age_tokens_p50"] <= 20


@pytest.mark.parametrize("part", ["predictor", "scheduler", "store"])
async def test_a_killed_part_means_the_engines_own_order_and_its_return_a_plan(loop: Loop, part: str) -> None:
    loop.harness.submit(6, output_tokens=2_500)
    await loop.refined_again()
    service = {"predictor": loop.predictor, "scheduler": loop.scheduler}.get(part)
    if service is None:
        loop.valkey.stop()
    else:
        service.kill()
    await loop.harness.until(lambda: loop.engine.plan is None)
    if service is None:
        loop.valkey.restart_empty()
    else:
        await asyncio.to_thread(service.start)
    await loop.refined_again()
    assert loop.engine.living == 6
