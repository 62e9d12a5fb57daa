"""The Python sources of other versions of vLLM than the installed one: `make vllm-sources` fetches them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

VERSIONS = ("0.26.0", "0.33.0")
"""The oldest and the newest that are supported."""
_FOLDER = Path(__file__).parents[2] / "out" / "vllm"
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_31_x86_64", "manylinux_2_35_x86_64", "manylinux1_x86_64")


def sources(version: str) -> Path:
    """Where `vllm` of that version lies, if it was fetched."""
    return _FOLDER / version


def fetch(version: str) -> None:
    """Downloads the wheel, keeps its Python files."""
    with tempfile.TemporaryDirectory() as scratch:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        platforms = [argument for platform in _PLATFORMS for argument in ("--platform", platform)]
        subprocess.run([*download, *platforms, "--dest", scratch, f"vllm=={version}"], check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as packed:
            names = [name for name in packed.namelist() if name.startswith("vllm/") and name.endswith(".py")]
            packed.extractall(sources(version), names)


if __name__ == "__main__":
    for wanted in VERSIONS:
        if not sources(wanted).is_dir():
            fetch(wanted)
        print(f"vLLM {wanted}: {sources(wanted)}")
