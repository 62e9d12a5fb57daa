"""Several replicas: streams move between them, a full one sends engines on, a dead one loses its own."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks import replicas
from benchmarks.replicas import Replica
from benchmarks.served_step import free_ports
from sidecar.cli.load.options import LoadOptions
from sidecar.cli.load.run import Load
from tests import artefacts
from tests.conftest import Valkey
from tests.integration.agent_harness import AgentProcess, Harness
from tests.patience import PATIENCE_S

DIM = 16
WITHIN_S = 60.0
"""Generous: a busy machine takes its time. The benchmark says how long it takes."""


def services(module: str, folder: Path, count: int, **flags: object) -> list[tuple[Replica, int]]:
    """Replicas, each with the port of its metrics."""
    ports = free_ports(count)
    return [
        (Replica(f"{module}_service.main", folder / f"{module}-{port}.log", metrics_port=port, **flags), port)
        for port in ports
    ]


def metric(port: int, name: str) -> float:
    page = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    return sum(float(line.split()[-1]) for line in page.splitlines() if line.split("{")[0].split()[0] == name)


async def metric_of(port: int, name: str) -> float:
    return await asyncio.to_thread(metric, port, name)


def until(condition: Callable[[], object], what: str) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s, f"never: {what}"
        time.sleep(0.1)


async def test_streams_as_old_as_they_may_be_move_on_without_loss_or_fault(valkey: Valkey, tmp_path: Path) -> None:
    model = artefacts.make(tmp_path / "model", hidden_size=DIM)
    shared = {"redis_url": valkey.url, "max_connection_age_s": 1.5}
    predictors = services("predictor", tmp_path, 2, model_dir=model, **shared)
    schedulers = services("scheduler", tmp_path, 2, **shared)
    with replicas.running([each for each, _ in (*predictors, *schedulers)]):
        harness = Harness(tmp_path / "shm", DIM)
        targets = [replicas.addresses([each for each, _ in group]) for group in (predictors, schedulers)]
        agent = AgentProcess(harness.settings(*targets))
        await agent.start()

        def moved() -> bool:
            path = harness.paths.folder / "statistics.json"
            counters = harness.statistics()["counters"] if path.exists() else {}
            return all(counters.get(f"{name}_streams_opened", 0) >= 4 for name in ("predictor", "scheduler"))

        async def all_served() -> bool:
            """Which replica is next is random, but not for ever the same."""
            steps = [await metric_of(port, "trail_predictor_steps_total") for _, port in predictors]
            plans = [await metric_of(port, "trail_scheduler_plans_total") for _, port in schedulers]
            return min(*steps, *plans) > 0

        def stepped_beyond(step: int) -> bool:
            return bool(harness.statistics()["counters"]["steps"] > step)

        harness.submit(6, output_tokens=2_500)
        await harness.until(moved)
        end_s = time.monotonic() + PATIENCE_S
        while not await all_served():
            assert time.monotonic() < end_s
            await harness.until(partial(stepped_beyond, harness.statistics()["counters"]["steps"]))
        counters = harness.statistics()["counters"]
        log = await agent.end()
    assert log.count("stream moves") >= 6
    assert "stream down" not in log
    assert counters["row_errors"] == counters["plans_rejected"] == counters["outcomes_lost"] == 0
    assert counters["degraded_answers"] == 0


async def test_full_replicas_send_engines_on_and_a_killed_ones_are_served_by_the_others(
    valkey: Valkey, tmp_path: Path
) -> None:
    """Three predictors of two engines each, and four engines: they fit, and still do when one is gone."""
    await asyncio.to_thread(_kill_one_of_three, valkey, tmp_path)


def _kill_one_of_three(valkey: Valkey, folder: Path) -> None:
    model = artefacts.make(folder / "model", hidden_size=DIM)
    predictors = services("predictor", folder, 3, redis_url=valkey.url, model_dir=model, max_engines=2)
    scheduler = Replica("scheduler_service.main", folder / "scheduler.log", redis_url=valkey.url)
    with replicas.running([*(each for each, _ in predictors), scheduler]):
        options = LoadOptions(
            replicas.addresses([each for each, _ in predictors]), scheduler.address, 4, requests=4, dim=DIM, step_ms=40
        )

        def served(port: int) -> float:
            return metric(port, "trail_predictor_streams")

        with Load(options) as load:
            assert load.connect() == 4
            load.begin()
            load.during(2)
            victim, port = max(predictors, key=lambda each: served(each[1]))
            others = [other for _, other in predictors if other != port]
            streams = [served(each) for _, each in predictors]
            assert max(streams) <= 2
            assert sum(streams) == 4
            for each, of_each in predictors:
                if served(of_each) == 2:
                    assert _serving(each.address), "a full replica is healthy"
            killed_s = time.time()
            victim.kill()
            until(lambda: sum(map(served, others)) == 4, "the others serve all")
            until(lambda: load.connected == 4, "all are connected")
            load.during(2)
        found = load.result()
        assert found["requests_lost"] == found["row_errors"] == 0
        gaps = [gap.seconds for gap in load.gaps if gap.ended_s > killed_s]
        assert max(gaps, default=0.0) < WITHIN_S


def _serving(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
