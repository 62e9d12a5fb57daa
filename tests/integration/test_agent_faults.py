"""What the agent and its supervisor do when a part dies, or when the rings lose something."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from engine_adapter.records import Engine
from engine_adapter.simulated.engine import SimulatedEngine
from sidecar.supervise import Supervisor
from tests.integration.agent_harness import STEP_S, AgentProcess, Harness
from tests.integration.agent_services import DIM, Predictor, Scheduler, Served
from tests.patience import PATIENCE_S

ROOMY = Engine(max_running_requests=4, kv_blocks=8_000, kv_block_tokens=16, step_token_budget=256)


class Services:
    def __init__(self) -> None:
        self.predictor, self.scheduler = Predictor(), Scheduler()
        self._served = (Served(self.predictor), Served(self.scheduler))

    async def start(self) -> None:
        for served in self._served:
            await served.start()

    async def stop(self) -> None:
        for served in self._served:
            await served.stop()

    @property
    def targets(self) -> tuple[str, str]:
        return self._served[0].target, self._served[1].target


@pytest.fixture
async def services() -> AsyncIterator[Services]:
    made = Services()
    await made.start()
    yield made
    await made.stop()


StartAgent = Callable[[Harness], Awaitable[asyncio.subprocess.Process]]


@pytest.fixture
async def start_agent(services: Services) -> AsyncIterator[StartAgent]:
    started: list[AgentProcess] = []

    async def start(harness: Harness) -> asyncio.subprocess.Process:
        started.append(AgentProcess(harness.settings(*services.targets)))
        return await started[-1].start()

    yield start
    for agent in started:
        print(await agent.end())


async def test_a_killed_agent_comes_back_and_declares_everything_again(tmp_path: Path, services: Services) -> None:
    harness = Harness(tmp_path, DIM)
    supervisor = agent_supervisor(harness.settings(*services.targets))
    with supervisor:
        names = harness.submit(3)
        await harness.until(lambda: harness.engine.plan)
        first = supervisor.process_id
        assert first is not None
        before = services.predictor.opens[-1].epoch
        os.kill(first, signal.SIGKILL)
        await harness.until(lambda: supervisor.process_id not in (None, first))
        opened = len(services.scheduler.opens)
        await harness.until(lambda: len(services.scheduler.opens) > opened)
        await harness.until(lambda: services.predictor.opens[-1].epoch.incarnation != before.incarnation)
        number = len(services.scheduler.deltas)
        await harness.until(lambda: len(services.scheduler.deltas) > number and harness.engine.plan)
        declared = services.predictor.opens[-1].requests
        # In the engine's present order, which a plan applied before the kill has changed.
        assert sorted(d.request_id for d in declared) == names
        assert all(d.age_tokens > 0 for d in declared)
        last = supervisor.process_id
    assert supervisor.restarts == 1
    assert last is not None
    assert not alive(last)
    harness.engine.step()
    assert harness.engine.plan is None


async def test_an_engine_that_restarts_on_the_same_files_is_another_incarnation(
    tmp_path: Path, services: Services, start_agent: StartAgent
) -> None:
    harness = Harness(tmp_path, DIM)
    await start_agent(harness)
    harness.submit(3)
    await harness.until(lambda: harness.engine.plan)
    before = services.predictor.opens[-1].epoch.incarnation
    harness.engine.close()
    other = Harness(tmp_path, DIM)
    harness.engine = other.engine
    names = harness.submit(2)
    await harness.until(lambda: harness.engine.plan and services.predictor.opens[-1].epoch.incarnation != before)
    await harness.until(lambda: services.scheduler.opens[-1].epoch.incarnation != before)
    assert sorted(d.request_id for d in services.scheduler.opens[-1].requests) == names


async def test_lost_events_are_noticed_and_everything_is_declared_again(
    tmp_path: Path, services: Services, start_agent: StartAgent
) -> None:
    harness = Harness(tmp_path, DIM, ROOMY, event_ring_bytes=1 << 16)
    agent = await start_agent(harness)
    names = harness.submit(2)
    await harness.until(lambda: harness.engine.plan)
    # While the agent does not look, 64 KB of ring take 7 of these prompts of 8 KB each, and the others are lost.
    agent.send_signal(signal.SIGSTOP)
    names += harness.submit(5, prompt_tokens=2_000)
    for _ in range(2_000):
        harness.engine.step()
    names += harness.submit(1)
    agent.send_signal(signal.SIGCONT)
    await harness.until(lambda: {d.request_id for d in services.scheduler.opens[-1].requests} >= {names[-1]})
    living = {request.request_id for request in (*harness.engine.model.running, *harness.engine.model.waiting)}
    assert {d.request_id for d in services.scheduler.opens[-1].requests} == living


async def test_more_living_requests_than_the_ring_can_declare_cost_only_their_predictions(
    tmp_path: Path, services: Services, start_agent: StartAgent
) -> None:
    harness = Harness(tmp_path, DIM, ROOMY, event_ring_bytes=1 << 16)
    harness.submit(30, prompt_tokens=2_000)
    await start_agent(harness)
    await harness.until(lambda: harness.engine.plan)
    opened = len(services.scheduler.opens)
    for _ in range(150):
        harness.engine.step()
        await asyncio.sleep(STEP_S)
    # It asks again, but ever less often.
    assert len(services.scheduler.opens) <= opened + 3
    await harness.until(lambda: harness.engine.plan)


async def test_a_broken_record_costs_a_resynchronisation_and_not_the_agent(tmp_path: Path, services: Services) -> None:
    harness = Harness(tmp_path, DIM)
    agent = AgentProcess(harness.settings(*services.targets))
    await agent.start()
    harness.submit(2)
    await harness.until(lambda: harness.engine.plan)
    opened = len(services.predictor.opens)
    harness.engine._events.write(b"\xee no such record")
    harness.engine._rows.write(b"\xee no such record")
    await harness.until(lambda: len(services.predictor.opens) > opened and harness.engine.plan)
    log = await agent.end()
    print(log)
    assert "broken event" in log
    assert "broken rows" in log
    assert "Traceback" not in log


async def test_a_full_disk_costs_statistics_and_not_the_agent(
    tmp_path: Path, services: Services, start_agent: StartAgent
) -> None:
    harness = Harness(tmp_path, DIM)
    agent = await start_agent(harness)
    harness.submit(2)
    await harness.until(lambda: harness.engine.plan)
    resource.prlimit(agent.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    full_s = time.time()
    # One that was being written may still come.
    await harness.until(lambda: time.time() > full_s + 1.5)
    newest_s, deltas = harness.statistics()["written_s"], len(services.scheduler.deltas)
    await harness.until(lambda: time.time() > full_s + 4)
    assert agent.returncode is None
    assert harness.statistics()["written_s"] == newest_s
    await harness.until(lambda: len(services.scheduler.deltas) > deltas and harness.engine.plan)
    resource.prlimit(agent.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await harness.until(lambda: harness.statistics()["written_s"] > newest_s)


async def test_without_services_the_agent_waits_and_the_engine_serves(tmp_path: Path) -> None:
    services = Services()
    await services.start()
    await services.stop()
    harness = Harness(tmp_path, DIM)
    agent = AgentProcess(harness.settings(*services.targets))
    await agent.start()
    harness.submit(6, output_tokens=100)
    await harness.until(lambda: not harness.engine.living)
    assert harness.engine.plan is None
    harness.submit(2)
    await services.start()
    await harness.until(lambda: harness.engine.plan)
    log = await agent.end()
    print(log)
    # One line a link, however often it tried.
    assert log.count("stream down") <= 4


def test_the_agent_ends_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import sys, time
        from sidecar.supervise import Supervisor
        settings = {"TRAIL_AGENT_SHM_ROOT": sys.argv[1], "TRAIL_AGENT_EXIT_WITH_PARENT": "true"}
        supervisor = Supervisor("agent", [sys.executable, "-m", "engine_adapter.agent"], settings)
        supervisor.start()
        while supervisor.process_id is None:
            time.sleep(0.01)
        print(supervisor.process_id, flush=True)
        time.sleep(600)
    """)
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    agent = int(parent.stdout.readline())
    wait_for(lambda: (tmp_path / "engine-0" / "statistics.json").exists())
    parent.kill()
    parent.wait()
    wait_for(lambda: not alive(agent))


def test_an_agent_that_cannot_start_is_tried_again_with_longer_waits(tmp_path: Path) -> None:
    supervisor = agent_supervisor({"shm_root": str(tmp_path), "engine_id": "not allowed"})
    with supervisor:
        wait_for(lambda: supervisor.restarts >= 2)
    assert supervisor.process_id is None


def test_a_simulated_engine_runs_to_the_end_without_an_agent(tmp_path: Path) -> None:
    harness = Harness(tmp_path, DIM)
    names = harness.submit(8, output_tokens=20)
    engine: SimulatedEngine = harness.engine
    assert sorted(request.request_id for request in engine.run(0.0, timeout_s=20)) == names


def agent_supervisor(settings: Mapping[str, str]) -> Supervisor:
    environment = {f"TRAIL_AGENT_{name.upper()}": value for name, value in settings.items()}
    return Supervisor("agent", [sys.executable, "-m", "engine_adapter.agent"], environment)


def alive(process_id: int) -> bool:
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_for(condition: Callable[[], bool], deadline_s: float = PATIENCE_S) -> None:
    end_s = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end_s, "the condition never came to hold"
        time.sleep(0.02)
