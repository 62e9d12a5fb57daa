"""The scheduler tests, with the sources of the oldest and the newest supported vLLM."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.vllm_sources import VERSIONS, sources
from tests.patience import PATIENCE_S

pytest.importorskip("vllm")

RUN = "import sys, pytest, vllm; assert vllm.__version__ == sys.argv[1]; sys.exit(pytest.main(sys.argv[2:]))"

pytestmark = pytest.mark.vllm


@pytest.mark.parametrize("version", VERSIONS)
def test_the_scheduler_tests_pass_with_the_sources_of(version: str) -> None:
    if not sources(version).is_dir():
        pytest.skip("its sources are not here: make vllm-sources")
    path = os.pathsep.join([str(sources(version)), *filter(None, [os.environ.get("PYTHONPATH")])])
    files = [str(Path(__file__).with_name(f"test_vllm_{name}.py")) for name in ("scheduler", "differential")]
    run = subprocess.run(
        [sys.executable, "-c", RUN, version, *files, "-p", "no:cacheprovider"],
        env=os.environ | {"PYTHONPATH": path},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert "skipped" not in run.stdout
