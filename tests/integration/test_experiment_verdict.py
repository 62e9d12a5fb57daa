"""First come, first served against shortest first, on simulated engines with real agents and a real scheduler that is
killed in between; then an arm that does harm."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from engine_adapter.records import Engine
from engine_adapter.simulated.engine import SimulatedEngine
from engine_adapter.simulated.request import SimulatedRequest
from scheduler_service.experiments import wire
from scheduler_service.experiments.analysis.verdict import verdicts
from scheduler_service.experiments.design import design_of
from tests.conftest import Valkey
from tests.integration.agent_harness import AgentProcess
from tests.integration.service_process import ServiceProcess
from tests.integration.test_experiments import HALTED, Stub, asked, awaited, connected_engines, started
from trail.v1 import experiment_pb2

ENGINES = ("e0", "e1", "e2")
CAPACITY = Engine(max_running_requests=2, kv_blocks=400, kv_block_tokens=16, step_token_budget=256)
STEP_S, STEPS_A_WAVE = 0.02, 25
# In every wave two long requests come just before four short ones, which can wait for them or go first.
SHORT, LONG = 2, 16
WAVE = (LONG, LONG, SHORT, SHORT, SHORT, SHORT)
BLOCK_S, WASHOUT_S, GROUPS = 3.0, 0.6, 6


class Traffic:
    """Requests for each engine, as they come; with `lies` short ones come first, and long ones pass for them."""

    def __init__(self, root: Path) -> None:
        self.engines = [SimulatedEngine(name, CAPACITY, dim=8, shm_root=root) for name in ENGINES]
        self.lies = False
        self.ended = self.submitted = 0

    async def run(self) -> None:
        next_s = time.monotonic()
        for step in itertools.count():
            for engine in self.engines:
                for tokens in () if step % STEPS_A_WAVE else WAVE[:: -1 if self.lies else 1]:
                    self._submit(engine, tokens)
                self.ended += len(engine.step().finished)
            next_s = max(next_s + STEP_S, time.monotonic())
            await asyncio.sleep(max(next_s - time.monotonic(), 0.001))

    def _submit(self, engine: SimulatedEngine, tokens: int) -> None:
        declared = SHORT + LONG - tokens if self.lies else tokens
        name = f"r{self.submitted}"
        self.submitted += 1
        engine.submit(SimulatedRequest(name, (1, 2, 3), tokens, time.time(), declared_output_tokens=declared))


@pytest.fixture
async def traffic(tmp_path: Path) -> AsyncIterator[Traffic]:
    traffic = Traffic(tmp_path)
    running = asyncio.create_task(traffic.run())
    yield traffic
    running.cancel()
    await asyncio.wait([running])
    for engine in traffic.engines:
        engine.close()


@pytest.fixture
async def scheduler(valkey: Valkey, traffic: Traffic, tmp_path: Path) -> AsyncIterator[ServiceProcess]:
    """A scheduler that every engine's agent is connected to."""
    process = ServiceProcess("scheduler_service.main", redis_url=valkey.url, redis_timeout_ms=5000)
    await asyncio.to_thread(process.start)
    agents = []
    for name in ENGINES:
        settings = {
            "engine_id": name, "shm_root": str(tmp_path), "scheduler_target": process.target,
            "predictor_target": "127.0.0.1:9", "reconnect_max_ms": "400",
        }  # fmt: skip
        agents.append(AgentProcess(settings))
        await agents[-1].start()
    yield process
    for agent in agents:
        await agent.end()
    process.kill()


def judged(found: experiment_pb2.GetExperimentResponse) -> Any:
    design = design_of(wire.given(found.experiment.design, ()))
    (verdict,) = verdicts(design, [wire.block_of(block) for block in found.blocks])
    return verdict


@pytest.mark.timeout(240)
async def test_the_better_arm_is_found_through_a_killed_scheduler_and_a_harmful_one_is_stopped(
    scheduler: ServiceProcess, traffic: Traffic
):
    async with grpc.aio.insecure_channel(scheduler.target) as channel:
        stub = Stub(channel)
        await connected_engines(stub, *ENGINES)
        timing = {"block_s": BLOCK_S, "washout_s": WASHOUT_S, "groups": GROUPS}
        await started(stub, asked("fcfs-or-shortest", *ENGINES, noise=0.3, **timing))
        await asyncio.sleep(3 + 2.5 * BLOCK_S)

        scheduler.kill()
        ended = traffic.ended
        await asyncio.sleep(1.5)
        # Without a scheduler the engines go on.
        assert traffic.ended > ended
        await asyncio.to_thread(scheduler.start)

        found = None
        for _ in range(600):
            found = await stub.GetExperiment(
                experiment_pb2.GetExperimentRequest(name="fcfs-or-shortest"), wait_for_ready=True
            )
            if found.experiment.state == experiment_pb2.EXPERIMENT_STATE_FINISHED and judged(found).deciding.shown:
                break
            await asyncio.sleep(0.2)
        assert found is not None
        verdict = judged(found)
        assert verdict.deciding.says == "better", verdict.deciding
        assert verdict.deciding.estimate < -0.15
        assert verdict.deciding.pairs >= 3 * GROUPS - 6

        traffic.lies = True
        rails = experiment_pb2.ExperimentGuardrails(worse=0.05)
        harm = asked("harm", *ENGINES, guardrails=rails, noise=0.2, **timing | {"groups": 50})
        await started(stub, harm)
        halted = await awaited(stub, "harm", lambda found: found.experiment.state == HALTED, "the guardrail", 90)
        assert "arm treatment: mean_latency is worse" in halted.experiment.reason
        assert set(halted.experiment.arms_now) == {"control"}
        assert traffic.submitted - traffic.ended <= sum(engine.living for engine in traffic.engines)
