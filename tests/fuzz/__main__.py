"""``python -m tests.fuzz``: coverage-guided inputs (atheris) for every target, each in a process of its own.

Writes what was run, and the input of each crash beside it; ends with status 1 where there was one.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from benchmarks import machine

PACKAGES = ("atheris", "protobuf", "numpy", "pydantic", "onnxruntime")
_DONE = re.compile(r"Done (\d+) runs in (\d+) second")
_COVERED = re.compile(r"cov: (\d+)")


def main() -> None:
    """Fuzzes one target where it is named with --child, else all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100_000, help="inputs for each target")
    parser.add_argument("--only", default="", help="targets to run, split by commas; all where none is named")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out/fuzz/report.json"), help="JSON report")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _fuzz(options.child, options.runs, options.seed, options.out.parent)
        return
    from tests.fuzz.targets import Targets

    with Targets() as targets:
        names = [name for name in options.only.split(",") if name] or list(targets)
        if unknown := sorted(set(names) - set(targets)):
            parser.error(f"--only {', '.join(unknown)}: there are {', '.join(targets)}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    found = _all(names, options)
    crashed = [name for name, each in found.items() if each["crashed"]]
    inputs = sum(each["inputs"] for each in found.values())
    told: dict[str, Any] = {
        "what": "Coverage-guided inputs to everything that reads what others wrote",
        **machine.provenance(*PACKAGES),
        "seed": options.seed,
        "inputs": inputs,
        "crashed": crashed,
        "targets": found,
    }
    machine.write(options.out, told)
    print(f"{inputs:,} inputs, {len(crashed)} crashes{': ' + ', '.join(crashed) if crashed else ''}")
    sys.exit(bool(crashed))


def _all(names: list[str], options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    found = {}
    with Progress(console=Console(stderr=True)) as progress:
        for name in progress.track(names, description="fuzz"):
            flags = ["--runs", str(options.runs), "--seed", str(options.seed), "--out", str(options.out)]
            command = [sys.executable, "-m", "tests.fuzz", "--child", name, *flags]
            done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
            ended, covered = _DONE.search(done.stderr), _COVERED.findall(done.stderr)
            if done.returncode or ended is None:
                progress.console.print(f"{name}: {done.stderr[-3000:]}")
            found[name] = {
                "inputs": int(ended[1]) if ended else 0,
                "seconds": int(ended[2]) if ended else None,
                "branches": int(covered[-1]) if covered else None,
                "crashed": done.returncode != 0 or ended is None,
            }
    return found


def _fuzz(name: str, runs: int, seed: int, folder: Path) -> None:
    import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

    with atheris.instrument_imports(include=["predictor_service", "scheduler_service", "engine_adapter", "sidecar"]):
        from tests.fuzz.targets import Targets

    with Targets() as targets:
        atheris.Setup(
            [
                "fuzz",
                f"-runs={runs}",
                f"-seed={seed}",
                "-max_len=4096",
                "-timeout=30",
                "-rss_limit_mb=4096",
                f"-artifact_prefix={folder}/{name}-",
            ],
            targets[name],
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
