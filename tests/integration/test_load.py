"""`trail load` as a command, against real services."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import replicas
from benchmarks.replicas import Replica
from tests import artefacts
from tests.conftest import Valkey
from tests.patience import PATIENCE_S

DIM = 16


@pytest.fixture
def services(valkey: Valkey, tmp_path: Path) -> Iterator[list[str]]:
    """Flags that name them."""
    model = artefacts.make(tmp_path / "model", hidden_size=DIM)
    flags = {"redis_url": valkey.url}
    predictors = [
        Replica("predictor_service.main", tmp_path / f"predictor-{number}.log", model_dir=model, **flags)
        for number in range(2)
    ]
    scheduler = Replica("scheduler_service.main", tmp_path / "scheduler.log", **flags)
    with replicas.running([*predictors, scheduler]):
        yield ["--predictor", replicas.addresses(predictors), "--scheduler", scheduler.address]


def load(*flags: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "sidecar.cli.main", "load", *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_load_ends_with_figures_of_all_its_engines(services: list[str]) -> None:
    size = ["--engines", "3", "--processes", "2", "--requests", "4", "--step-ms", "25", "--duration-s", "4"]
    beside = load(*services, "--engines", "1", "--requests", "4", "--step-ms", "25", "--duration-s", "4", "--json")
    out, errors = load(*services, *size, "--json").communicate(timeout=PATIENCE_S)
    found = json.loads(out)
    # Neither took an engine of the other's.
    assert json.loads(beside.communicate(timeout=PATIENCE_S)[0])["reconnects"] == 0
    assert (found["engines"], found["engines_connected"], found["dim"]) == (3, 3, DIM), errors
    assert found["interrupted"] is False
    assert 3 < found["seconds"] < 120
    assert found["steps_per_s"] > 10
    # Nearly one row for each request and step, and a prediction for each row.
    assert found["rows_per_s"] > 2 * found["steps_per_s"]
    assert found["predictions_per_s"] > 0.8 * found["rows_per_s"]
    assert 0 < found["loop_ms"]["p50"] <= found["loop_ms"]["p99"]
    assert found["prediction_age_tokens"]["p50"] >= 1
    assert found["plans_per_s"] > 0
    assert found["requests_lost"] == found["row_errors"] == found["reconnects"] == 0


def test_ctrl_c_ends_it_with_the_table_so_far(services: list[str]) -> None:
    process = load(*services, "--engines", "1", "--requests", "4", "--duration-s", "600")
    time.sleep(12)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    assert "interrupted" in out
    assert "predictions/s" in out


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--predictor", "127.0.0.1:1"], "no predictor service at 127.0.0.1:1"),
        (["--predictor", "127.0.0.1:1,host:2"], "'host:2' is no IP:PORT"),
    ],
)
def test_a_load_that_cannot_begin_says_why_in_one_line(flags: list[str], told: str) -> None:
    process = load(*flags)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert told in errors
    assert "Traceback" not in errors


def test_another_width_than_the_models_is_refused(services: list[str]) -> None:
    _, errors = load(*services, "--dim", "77").communicate(timeout=PATIENCE_S)
    assert f"reads rows of {DIM} values" in errors
