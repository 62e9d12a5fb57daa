"""Where, with what and by which command a number was measured: what every file of results says of itself."""

import contextlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_NUMBERS = re.compile(r"\[[-+\d.,eE\s]+\]")


def provenance(*packages: str) -> dict[str, Any]:
    """Machine, versions of Python and `packages` (those that are there), and the command line."""
    return {"machine": machine(), "versions": versions(*packages), "command": command()}


def write(path: Path, results: Mapping[str, Any]) -> None:
    """JSON, indented, but with each list of numbers on one line."""
    text = json.dumps(results, indent=1)
    path.write_text(_NUMBERS.sub(lambda found: " ".join(found[0].split()), text) + "\n")


def machine() -> dict[str, Any]:
    """Processor, cores this process may use, memory, system, and GPUs with their driver."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory_bytes / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "gpus": gpus(),
    }


def gpus() -> list[str]:
    """Name, memory and driver of each; none where nvidia-smi is not there."""
    return nvidia_smi("--query-gpu=name,memory.total,driver_version")


def nvidia_smi(query: str) -> list[str]:
    """Lines that nvidia-smi answers a query with; none where it is not there or fails."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True, timeout=20, check=True
        )
        return answer.stdout.strip().splitlines()
    return []


def versions(*packages: str) -> dict[str, str]:
    """Of what is imported the module's own: a path that is searched earlier may hide the installed one."""
    found = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            imported = getattr(sys.modules.get(package.replace("-", "_")), "__version__", None)
            found[package] = imported or version(package)
    return found


def command() -> str:
    """The command line, without the folders of this machine."""
    main = sys.modules["__main__"]
    specification = getattr(main, "__spec__", None)
    start = ["-m", specification.name] if specification else [Path(sys.argv[0]).name]
    return shlex.join(["python", *start, *(_bare(argument) for argument in sys.argv[1:])])


def _bare(argument: str) -> str:
    return Path(argument).name if argument.startswith("/") else argument


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
