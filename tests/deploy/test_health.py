"""`trail health`, which images and chart ask."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sidecar.cli.demo.engine import free_port
from tests.deploy.processes import trail
from tests.patience import PATIENCE_S


def test_nobody_there_is_told_with_the_address_and_fails() -> None:
    target = f"127.0.0.1:{free_port()}"
    done = trail(["health", target])
    assert done.returncode == 1
    assert done.stderr.startswith(f"{target}: no answer: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("targets", [1, 2])
def test_it_asks_whom_the_environment_names(targets: int) -> None:
    named = " ".join(f"127.0.0.1:{free_port()}" for _ in range(targets))
    command = [sys.executable, "-m", "sidecar.cli.main", "health"]
    environment = os.environ | {"TRAIL_HEALTH": named}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.stderr.count("no answer") == targets
