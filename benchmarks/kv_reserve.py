"""Where KV memory is short: what an engine gains by keeping blocks free for those that run.

    python -m benchmarks.kv_reserve --out benchmarks/results/kv-reserve.json
    python -m benchmarks.kv_reserve --table benchmarks/results/kv-reserve.json

Each sweep is `trail simulate` with every policy twice: with the reserve and without. Cells are kept under --cells, so
that a stopped sweep goes on.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.policies import STEP_TIME, STEPS_FILE
from benchmarks.policy_plots import mean_of

RESERVE = 0.2
WITHOUT = {"fcfs": "fcfs", "paper": "paper", "default": "default:kv_reserve=0", "oracle": "oracle"}
WITH = {
    "fcfs": f"fcfs:kv_reserve={RESERVE}",
    "paper": f"paper:kv_reserve={RESERVE}",
    "default": "default",
    "oracle": f"oracle:kv_reserve={RESERVE}",
}
LARGER_STEPS = {"a_s": 6.5e-3, "b_s": 15e-6, "c_s": 40e-6, "d_s": 0.0, "e_s": 5e-4}
"""As an 8B shape's on an H100 would be: a decode step of 6.7 to 10 ms as measured (`overhead-h100.json`), 25,000 prompt
tokens a second assumed."""
SHORT = ("--slots", "128", "--kv-blocks", "640", "--token-budget", "8192")
SWEEPS: Mapping[str, tuple[Sequence[str], Sequence[str], str, str]] = {
    "kv": (SHORT, list(WITHOUT), "0.95,1.1,1.3,1.5", "measured"),
    "kv-larger-steps": (SHORT, ["fcfs", "default"], "0.95,1.1,1.3", "larger"),
    "slots": (("--slots", "64"), ["default"], "0.8,0.95,1.1", "measured"),
}
"""Options, policies, loads, and whose steps."""
SECONDS, SEEDS = 20, 2
FIGURES = {
    "mean_latency_s": ".2f", "p99_latency_s": ".1f", "mean_ttft_s": ".2f", "evictions": ",.0f",
    "recomputed_tokens": ",.0f",
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the sweeps, and writes after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file of results")
    parser.add_argument("--table", type=Path, help="print the tables of this JSON and do nothing else")
    parser.add_argument("--cells", type=Path, default=Path("out/kv-reserve"), help="folder of finished cells")
    parser.add_argument("--sweep", action="append", choices=list(SWEEPS), help="default: all")
    options = parser.parse_args(argv)
    if options.table:
        for name, sweep in json.loads(options.table.read_text())["sweeps"].items():
            print(f"\n{name}\n\n{table(name, sweep['runs'])}")
        return
    if not options.out:
        parser.error("--out or --table is needed")
    options.cells.mkdir(parents=True, exist_ok=True)
    measured = json.loads(STEP_TIME.read_text())["fit"]["step_time"]
    for whose, steps in (("measured", measured), ("larger", LARGER_STEPS)):
        (options.cells / f"{whose}-{STEPS_FILE}").write_text(json.dumps(steps))
    sweeps = json.loads(options.out.read_text())["sweeps"] if options.out.exists() else {}
    for name in options.sweep or SWEEPS:
        sweeps[name] = {**_run(name, options.cells), **machine.provenance("numpy")}
        machine.write(options.out, {"what": "KV memory kept free for those that run, simulated", "sweeps": sweeps})


def _run(name: str, cells: Path) -> dict[str, Any]:
    sizes, policies, loads, steps = SWEEPS[name]
    arms = [arm[policy] for policy in policies for arm in (WITHOUT, WITH)]
    command = [
        *(sys.executable, "-m", "sidecar.cli.main", "simulate", "--json", "--trace", "poisson:alpaca", *sizes),
        *(
            "--policies",
            ",".join(arms),
            "--load",
            loads,
            "--seeds",
            str(SEEDS),
            "--duration-s",
            str(SECONDS),
            "--out",
            str(cells),
        ),
        *("--step-time", str(cells / f"{steps}-{STEPS_FILE}")),
    ]
    told: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return {"experiment": told["experiment"], "runs": told["runs"]}


def table(name: str, runs: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: each figure without the reserve and with it, means over seeds."""
    titles = "mean latency, s | p99, s | mean TTFT, s | evictions | tokens computed again"
    lines = [f"| load | policy | {titles} |", "|---|---|" + "---|" * len(FIGURES)]
    for load in sorted({run["load"] for run in runs}):
        for policy in SWEEPS[name][1]:
            pairs = [
                " to ".join(format(mean_of(runs, arm[policy], load, figure), form) for arm in (WITHOUT, WITH))
                for figure, form in FIGURES.items()
            ]
            lines.append(f"| {load:g} | `{policy}` | " + " | ".join(pairs) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
