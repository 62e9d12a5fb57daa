"""The example adapters are built as their makers would, keep the contract, and read and write its vectors."""

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from sidecar.cli.conformance.adapter.play import check_adapter
from tests.debian import missing, needed
from tests.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "engine_adapter" / "examples"
VECTORS = sorted(map(str, (ROOT / "proto" / "vectors").glob("*.json")))
CPP_PACKAGES = "g++ make pkg-config libgrpc++-dev libprotobuf-dev protobuf-compiler-grpc nlohmann-json3-dev"

# Two cores compile the C++ example in half a minute, when they have nothing else to do.
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def typescript() -> Path:
    """Folder of the built programs."""
    folder = EXAMPLES / "typescript"
    needed("node", "nodejs")
    npm = needed("npm", "npm")
    installed = folder / "node_modules" / ".package-lock.json"
    lock = folder / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        got = _run(npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=folder)
        if got.returncode:
            missing(f"npm ci: {got.stderr.strip()[-500:]}")
        installed.touch()
    built = _run(npm, "run", "build", cwd=folder)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "dist"


@pytest.fixture(scope="module")
def cpp() -> Path:
    """Folder of the built programs."""
    for program in ("g++", "make", "pkg-config", "protoc", "grpc_cpp_plugin"):
        needed(program, CPP_PACKAGES)
    libraries = _run("pkg-config", "--exists", "grpc++", "protobuf").returncode == 0
    if not libraries or not Path("/usr/include/nlohmann/json.hpp").exists():
        missing(f"a library is not installed: apt-get install {CPP_PACKAGES}")
    built = _run("make", "-j2", cwd=EXAMPLES / "cpp")
    assert built.returncode == 0, built.stdout + built.stderr
    return EXAMPLES / "cpp" / "build"


def test_the_typescript_adapter_keeps_the_contract(typescript: Path) -> None:
    _keeps_the_contract("node", str(typescript / "main.js"))


def test_the_cpp_adapter_keeps_the_contract(cpp: Path) -> None:
    _keeps_the_contract(str(cpp / "adapter"))


def test_typescript_reads_and_writes_the_vectors(typescript: Path, tmp_path: Path) -> None:
    _agrees_on_vectors(tmp_path, "node", str(typescript / "vectors.js"))


def test_cpp_reads_and_writes_the_vectors(cpp: Path, tmp_path: Path) -> None:
    _agrees_on_vectors(tmp_path, str(cpp / "vectors"))


def _keeps_the_contract(*command: str) -> None:
    verdicts = asyncio.run(check_adapter(command, PATIENCE_S))
    assert [verdict for verdict in verdicts if not verdict.passed] == []


def _agrees_on_vectors(folder: Path, *command: str) -> None:
    checked = _run(*command, *VECTORS)
    assert checked.returncode == 0, checked.stdout
    other = folder / "other.json"
    # The checker itself can fail: another handle than the bytes have.
    other.write_text(
        (ROOT / "proto" / "vectors" / "engine.json").read_text().replace('"counter": "3"', '"counter": "4"')
    )
    assert _run(*command, str(other)).returncode == 1


def _run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"NO_UPDATE_NOTIFIER": "1"}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment, check=False)
