"""Dashboards and alerts ask for what the running services export: real processes, a real Prometheus."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest
from prometheus_client import REGISTRY, Enum
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

import predictor_service.metrics  # noqa: F401 - registered
import scheduler_service.experiments.metrics  # noqa: F401
import scheduler_service.metrics  # noqa: F401
from deploy.grafana.generate import DASHBOARDS
from deploy.grafana.panels import Query
from engine_adapter.simulated.request import SimulatedRequest
from sidecar.cli.demo.engine import free_port
from sidecar.cli.main import app
from tests.conftest import start_valkey
from tests.debian import needed
from tests.integration.agent_harness import ENGINE_ID
from tests.integration.prometheus_process import FOLDER as RULES
from tests.integration.prometheus_process import Prometheus, prometheus
from tests.integration.test_agent_real_services import Loop
from tests.integration.test_experiments import asked as designed
from tests.integration.test_experiments import started
from tests.promql import asked, filled_in, legend_labels
from trail.v1 import experiment_pb2, experiment_pb2_grpc, scheduler_pb2, scheduler_pb2_grpc

JOBS = ("trail-predictor", "trail-scheduler", "trail-agent")
SUFFIXES = ("_bucket", "_sum", "_count", "_total")
SCRAPED = frozenset({"job", "instance"})
QUERIES = [
    pytest.param(query, id=f"{page.uid}-{i}") for page in DASHBOARDS.values() for i, query in enumerate(page.queries)
]


@dataclass
class Watched:
    """A stack under load, and the Prometheus that watches it."""

    prometheus: Prometheus
    ports: dict[str, int]

    def text(self, job: str) -> str:
        return httpx.get(f"http://127.0.0.1:{self.ports[job]}/metrics").text

    def families(self) -> set[str]:
        """Names of everything that is exported, with or without series yet."""
        lines = "\n".join(map(self.text, JOBS)).splitlines()
        return {line.split()[2] for line in lines if line.startswith("# TYPE")} | {"up"}

    def labels(self, metric: str) -> set[str]:
        """Those of its series, and those that it will have once it has any."""
        return self.prometheus.labels(metric) | set(_declared(metric)) | SCRAPED


def _declared(metric: str) -> tuple[str, ...]:
    collector = REGISTRY._names_to_collectors.get(metric)
    own = ("le",) if metric.endswith("_bucket") else (metric,) if isinstance(collector, Enum) else ()
    return (*getattr(collector, "_labelnames", ()), *own)


async def _drive(loop: Loop, scheduler_metrics: str) -> None:
    """Requests in the order of their predictions; then long ones that short ones preempt, by their true lengths."""
    harness = loop.harness
    await harness.until(loop.connected)
    _choose(loop, "sjf", "per_step")
    for length in (5, 40, 20, 80, 10) * 6:
        harness.submit(1, output_tokens=length)
    await harness.until(lambda: not loop.engine.living)
    _choose(loop, "srpt", "oracle")
    for kind, length in (("long", 400), ("short", 5)):
        for number in range(4):
            name = f"{kind}-{number}"
            loop.engine.submit(SimulatedRequest(name, range(8), length, time.time(), declared_output_tokens=length))
        await _steps(loop, 30)
    await harness.until(lambda: not loop.engine.living)
    await harness.until(lambda: loop.count("requests_finished") == 38, stepping=False)
    await _experiment(loop, scheduler_metrics)


async def _experiment(loop: Loop, scheduler_metrics: str) -> None:
    """Both arms serve the engine for a while; then it goes back to its own policy."""
    async with grpc.aio.insecure_channel(loop.scheduler.target) as channel, httpx.AsyncClient() as client:
        stub = experiment_pb2_grpc.ExperimentServiceStub(channel)
        starting = asyncio.create_task(started(stub, designed("watched", ENGINE_ID)))
        await loop.harness.until(starting.done)
        await starting
        number, arms = 0, set[str]()
        while arms != {"control", "treatment"}:
            number += 1
            short = SimulatedRequest(f"arm-{number}", range(8), 5, time.time(), declared_output_tokens=5)
            loop.engine.submit(short)
            await loop.harness.until(lambda: not loop.engine.living)
            text = (await client.get(scheduler_metrics)).text
            arms = set(re.findall(r'trail_scheduler_experiment_requests_total{arm="(\w+)"', text))
        await stub.StopExperiment(experiment_pb2.StopExperimentRequest(name="watched"))


def _choose(loop: Loop, policy: str, predictor: str) -> None:
    choice = scheduler_pb2.PolicySettings(policy=policy, predictor=predictor)
    with grpc.insecure_channel(loop.scheduler.target) as channel:
        request = scheduler_pb2.SetPolicyRequest(engine_id=ENGINE_ID, policy=choice)
        scheduler_pb2_grpc.SchedulerAdminServiceStub(channel).SetPolicy(request, timeout=10)


async def _steps(loop: Loop, count: int) -> None:
    until = loop.count("steps") + count
    await loop.harness.until(lambda: loop.count("steps") > until)


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    needed("prometheus", "prometheus")
    ports = {job: free_port() for job in JOBS}
    with tempfile.TemporaryDirectory(prefix="trail-") as short, pytest.MonkeyPatch.context() as environment:
        folder = Path(short)
        for service in ("predictor", "scheduler"):
            environment.setenv(f"TRAIL_{service.upper()}_METRICS_PORT", str(ports[f"trail-{service}"]))
        environment.setenv("TRAIL_PREDICTOR_OUTCOME_POLL_S", "0.2")
        valkey = start_valkey(folder)
        with asyncio.Runner() as runner, prometheus(folder, ports) as served:
            loop = Loop(folder, valkey, metrics_port=str(ports["trail-agent"]))
            runner.run(loop.start())
            try:
                runner.run(_drive(loop, f"http://127.0.0.1:{ports['trail-scheduler']}/metrics"))
                made = Watched(served, ports)
                _until(lambda: "trail_predictor_live_mae_tokens{" in made.text("trail-predictor"), "live figures")
                _until(lambda: made.prometheus.labels("trail_predictor_live_mae_tokens"), "a scrape after them")
                yield made
            finally:
                runner.run(loop.stop())
                valkey.stop()


def _until(condition: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline_s, f"never: {what}"
        time.sleep(0.1)


def check(watched: Watched, expr: str, shown: set[str]) -> None:
    """Metrics and labels of the expression exist, and Prometheus takes it."""
    watched.prometheus.query(expr)
    wanted, families, all_labels = asked(expr), watched.families(), set[str]()
    for metric, labels in wanted.metrics:
        bases = {metric, *(metric.removesuffix(suffix) for suffix in SUFFIXES[:3])}
        assert bases & families, f"nobody exports {metric}: {expr}"
        there = watched.labels(metric)
        assert labels <= there, f"{metric} has no label {labels - there}: {expr}"
        all_labels |= there
    assert wanted.labels | shown <= all_labels, f"no metric has {(wanted.labels | shown) - all_labels}: {expr}"


@pytest.mark.parametrize("query", QUERIES)
def test_a_panel_asks_for_what_is_exported(watched: Watched, query: Query) -> None:
    check(watched, filled_in(query.expr), legend_labels(query.legend))


def test_variables_and_alerts_ask_for_what_is_exported(watched: Watched) -> None:
    for page in DASHBOARDS.values():
        for variable in page.variables:
            check(watched, variable.metric, {variable.name})
    rules = [rule for group in watched.prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert len(rules) > 15
    for rule in rules:
        assert rule["health"] != "err", rule
        texts = " ".join(rule["annotations"].values())
        shown = {part.split("}")[0].split()[0] for part in texts.split("$labels.")[1:]}
        check(watched, rule["query"], shown)


def test_a_panel_about_something_that_is_not_exported_is_found(watched: Watched) -> None:
    for expr, shown in (
        ("rate(trail_agent_no_such_total[1m])", set()),
        ("sum by (no_such) (trail_agent_living_requests)", set()),
        ('trail_agent_living_requests{no_such="a"}', set()),
        ("trail_agent_living_requests", {"no_such"}),
    ):
        with pytest.raises(AssertionError, match="no_such"):
            check(watched, expr, shown)
    with pytest.raises(AssertionError, match="parse error"):
        watched.prometheus.query("sum by (")


def test_what_happened_is_what_is_told(watched: Watched) -> None:
    for metric in (
        "trail_predictor_step_rows_count", "trail_predictor_posterior_entropy_nats_count",
        "trail_agent_prediction_age_tokens_count", "trail_agent_plan_age_seconds_count",
        "trail_scheduler_plan_wait_seconds_count", "trail_scheduler_request_latency_seconds_count",
    ):  # fmt: skip
        assert float(watched.prometheus.query(f"sum({metric})")[0]["value"][1]) > 0, metric
    assert [each["metric"]["predictor"] for each in watched.prometheus.query("trail_scheduler_arm")] == ["oracle"]
    # The first steps come before the first plan.
    reasons = watched.prometheus.query("trail_agent_fail_open_steps_total > 0")
    assert "no_plan" in {each["metric"]["reason"] for each in reasons}
    ended = watched.prometheus.query('trail_scheduler_finished_requests_total{reason="stop"}')
    assert float(ended[0]["value"][1]) > 38
    counted = watched.prometheus.query("trail_scheduler_experiment_requests_total > 0")
    assert {each["metric"]["arm"] for each in counted} == {"control", "treatment"}


def test_preemptions_by_true_lengths_are_judged_to_have_paid(watched: Watched) -> None:
    judged = watched.prometheus.query("trail_scheduler_preemptions_judged_total > 0")
    assert [each["metric"]["verdict"] for each in judged] == ["paid"]
    done = float(watched.prometheus.query("sum(trail_agent_preemptions_by_plan_total)")[0]["value"][1])
    assert 0 < float(judged[0]["value"][1]) <= done
    saved = watched.prometheus.query('trail_scheduler_preemption_seconds_total{verdict="paid"}')
    assert float(saved[0]["value"][1]) > 0


def test_top_shows_the_real_services(watched: Watched) -> None:
    addresses = [f"127.0.0.1:{port}" for port in watched.ports.values()]
    done = CliRunner().invoke(app, ["top", "--json", "--interval", "0.3", *addresses])
    assert done.exit_code == 0
    shown = json.loads(done.stdout)
    (engine,), (predictor,), (scheduler,) = shown["engines"], shown["predictors"], shown["schedulers"]
    assert (engine["engine"], engine["policy"], engine["predictor"]) == (ENGINE_ID, "srpt", "oracle")
    assert (engine["running"], engine["waiting"], engine["missing_links"]) == (0, 0, [])
    assert engine["error_tokens"] > 0
    assert engine["preemption_net_s"] > 0
    assert predictor["store_up"]
    assert scheduler["store_up"]
    assert [model["model"] for model in shown["models"]] == ["tiny"]
    assert shown["unreachable"] == []


@pytest.mark.parametrize("job", JOBS)
def test_metrics_follow_the_naming_rules(watched: Watched, job: str) -> None:
    text = watched.text(job)
    checked = subprocess.run(
        [needed("promtool", "prometheus"), "check", "metrics"], input=text, text=True, capture_output=True
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    names = {family.name for family in text_string_to_metric_families(text)}
    assert names
    assert all(name.startswith((f"{job.replace('-', '_')}_", "process_", "python_")) for name in names)


def test_the_rules_are_valid_and_their_tests_pass() -> None:
    promtool = needed("promtool", "prometheus")
    for arguments in (
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts_test.yml"),
    ):
        done = subprocess.run([promtool, *arguments], cwd=RULES, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
