"""The engines of compose file and chart: their flags under vLLM's own parser, and one of them for real."""

from __future__ import annotations

import importlib
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer.main

from sidecar.cli.main import app
from tests.deploy.processes import Container, Machine, Processes, of_compose, until_healthy
from tests.deploy.test_processes import MODELS, SERVICES, chart_containers, logs, named
from tests.deploy.tools import ROOT
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.vllm
pytest.importorskip("vllm")

START_TIMEOUT_S = 600.0
ENGINES = ("compose: engine", "compose: engine-cpu", "chart: engine.yaml", "chart: sidecar.yaml")


def engine(which: str) -> Container:
    where, name = which.split(": ")
    return of_compose(name, SERVICES[name]) if where == "compose" else named(chart_containers(name), "engine")


@pytest.mark.parametrize("which", ENGINES)
def test_trail_serve_and_vllm_accept_the_flags_of_an_engine(which: str) -> None:
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    command = typer.main.get_command(app)
    serve = command.get_command(None, "serve")  # type: ignore[attr-defined]
    with serve.make_context("serve", engine(which).command) as context:
        ours, theirs = context.params, context.args
    assert ours["engine_id"] in ("engine-0", "engine-cpu", "pod-0")
    assert ours["predictor"].endswith(":50061")
    assert ours["scheduler"].endswith(":50062")
    parsed = cli_args().make_arg_parser(FlexibleArgumentParser()).parse_args(theirs)
    assert (parsed.host, parsed.port) == ("0.0.0.0", 8000)  # noqa: S104 - in its container


@pytest.mark.timeout(900)
def test_the_engine_of_compose_on_a_cpu_answers_and_is_predicted(tmp_path: Path) -> None:
    from sidecar.cli.demo.model import smollm2

    llm = smollm2(ROOT / "out" / "models" / "SmolLM2-135M-Instruct")
    (tmp_path / "data").mkdir()
    here = Machine({"/models": MODELS, "/data": tmp_path / "data", "/llm": llm})
    container = engine("compose: engine-cpu")
    of_image = {"VLLM_USE_V2_MODEL_RUNNER": "0", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    container = Container("engine", ["serve", *container.command], container.environment | of_image)
    with Processes(logs(tmp_path)) as processes:
        for name in ("valkey", "predictor", "scheduler"):
            processes.start(of_compose(name, SERVICES[name]), here)
        until_healthy(["health", here.here("predictor:50061"), here.here("scheduler:50062")], processes)
        process = processes.start(container, here)
        url = f"http://127.0.0.1:{here.ports['8000']}"
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not answers(url):
            assert process.poll() is None, processes.logs()
            assert time.monotonic() < deadline_s, processes.logs()
            time.sleep(1)
        model = httpx.get(f"{url}/v1/models", timeout=10).json()["data"][0]["id"]
        body = {"model": model, "prompt": "Once upon a time", "max_tokens": 16}
        answer = httpx.post(f"{url}/v1/completions", json=body, timeout=PATIENCE_S)
        assert answer.is_success, answer.text
        assert json.loads(answer.text)["choices"][0]["text"]
        deadline_s = time.monotonic() + 30
        while not counted(httpx.get(f"http://127.0.0.1:{here.ports['9463']}/metrics", timeout=10).text):
            assert time.monotonic() < deadline_s, processes.logs()
            time.sleep(0.5)


def cli_args() -> Any:
    """The module of vLLM with the flags of its server, which has moved between versions."""
    for place in ("launchers", "openai"):
        try:
            return importlib.import_module(f"vllm.entrypoints.{place}.cli_args")
        except ModuleNotFoundError:
            continue
    raise AssertionError("vLLM keeps its flags elsewhere")


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).is_success
    except httpx.HTTPError:
        return False


def counted(metrics: str) -> bool:
    """Whether the agent has received predictions."""
    lines = [
        line for line in metrics.splitlines() if line.startswith("trail_agent_") and "predictions_received" in line
    ]
    return any(float(line.split()[-1]) > 0 for line in lines)
