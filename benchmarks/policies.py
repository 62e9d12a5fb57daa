"""Scheduling policies on a simulated engine: the mean, the tail and what each costs.

    python -m benchmarks.policies --out benchmarks/results/policies.json --plots docs/policies [--study main]
    python -m benchmarks.policies --table benchmarks/results/policies.json

Every study is a `trail simulate` sweep whose cells are kept under --cells, so that a stopped one goes on; studies that
are not asked for keep what the file says of them. Traces are read from ../shared/data where it is there, else those
studies are left out and named.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine, policy_plots, policy_tables

STEPS_FILE = "step-time.json"
STEP_TIME = Path(__file__).parent / "results" / "simulator-fit.json"
"""Of a real engine: `benchmarks.simulator_fit`."""
DATA = Path(__file__).parents[2] / "shared" / "data"
AZURE = DATA / "azure2023" / "AzureLLMInferenceTrace_conv.csv"
MOONCAKE = DATA / "mooncake" / "synthetic_trace.jsonl"
LINEAR = [f"default:aging=linear:aging_s={aging_s:g}" for aging_s in (2.5, 1.67, 1.25, 1, 0.8, 0.67)]
EXPONENTIAL = [f"default:aging_s={aging_s:g}" for aging_s in (1, 3, 4, 6, 8, 12)]
CUTS = [f"default:c={c:g}" for c in (0, 0.2, 0.5, 1)]
BASIC = ["fcfs", "oracle", "paper", "default"]
ALL = [*BASIC, "sjf", "srpt", "gittins", "kv_volume", "hrrn", "boost", "fair", "priority", "engine"]
GATHERING = ["fcfs", "oracle", "default:gathering=0", "default", "fcfs:gathering=1", "oracle:gathering=1"]
LOADS = (0.5, 0.8, 0.95, 1.1, 1.5)
KV_BLOCKS = 500
"""Short memory: 64 requests of the mean length hold twice as many."""


@dataclass(frozen=True)
class Study:
    """One sweep."""

    trace: str
    policies: Sequence[str]
    loads: Sequence[float]
    seeds: int
    predictions: str = "lognormal:0.75"
    more: Sequence[str] = ()
    measured_steps: bool = False
    """Steps take what those of a real engine do, not 5 ms each."""

    def run(self, cells: Path) -> dict[str, Any]:
        """The sweep's JSON."""
        command = [
            *(sys.executable, "-m", "sidecar.cli.main", "simulate", "--json", "--slots", "64"),
            *("--trace", self.trace, "--policies", ",".join(self.policies), "--predictions", self.predictions),
            *("--load", ",".join(f"{load:g}" for load in self.loads), "--seeds", str(self.seeds)),
            *("--out", str(cells), *self.more),
            *(("--step-time", str(cells / STEPS_FILE)) if self.measured_steps else ()),
        ]
        told = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        found: dict[str, Any] = json.loads(told.stdout)
        found["experiment"]["trace"] = Path(self.trace).name
        return {"predictions": self.predictions, **found}


MEASURED = "measured:docs/accuracy"
SHORT_KV = ("--kv-blocks", str(KV_BLOCKS))
WINDOW = ("--duration-s", "60")
NO_AGING = "default:aging=none"
STUDIES = {
    "main": Study("poisson:alpaca", BASIC, (0.95, 1.1), 10),
    "loads": Study("poisson:alpaca", BASIC, (0.5, 0.8, 1.5), 5),
    "kv-h100": Study(
        "poisson:alpaca", [*BASIC, NO_AGING], (0.95, 1.1, 1.3, 1.5), 5, more=SHORT_KV, measured_steps=True
    ),
    "gathering": Study("poisson:alpaca", GATHERING, (0.8, 0.95, 1.1, 1.3), 3, MEASURED, measured_steps=True),
    "frontier": Study("poisson:alpaca", ["fcfs", "oracle", "default", *EXPONENTIAL, *LINEAR], (1.1,), 5),
    "all": Study("poisson:alpaca", ALL, (1.1,), 5),
    "measured": Study("poisson:alpaca", [*BASIC, "default:predictor=shuffled"], (0.95, 1.1, 1.5), 5, MEASURED),
    "azure": Study(str(AZURE), BASIC, LOADS, 5, more=WINDOW),
    "kv": Study("poisson:alpaca", [*BASIC, NO_AGING], (0.8, 1.1, 1.5), 5, more=SHORT_KV),
    "mooncake": Study(str(MOONCAKE), BASIC, LOADS, 5, more=WINDOW),
    "limit": Study("poisson:alpaca", ["fcfs", "oracle", "default", *CUTS], (1.1,), 5),
    "kv-all": Study("poisson:alpaca", ALL, (1.1,), 5, more=SHORT_KV),
    "azure-all": Study(str(AZURE), ALL, (1.1,), 5, more=WINDOW),
    "measured-all": Study("poisson:alpaca", ALL, (1.1,), 5, MEASURED),
    "mooncake-all": Study(str(MOONCAKE), ALL, (1.1,), 5, more=WINDOW),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the studies asked for, writes after each, and draws what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file of results")
    parser.add_argument("--plots", type=Path, help="folder of the figures")
    parser.add_argument("--table", type=Path, help="print the tables of this JSON and do nothing else")
    parser.add_argument("--cells", type=Path, default=Path("out/policies"), help="folder of finished cells")
    parser.add_argument("--study", action="append", choices=list(STUDIES), help="default: all")
    options = parser.parse_args(argv)
    if options.table:
        _print_tables(json.loads(options.table.read_text())["studies"])
        return
    if not (options.out and options.plots):
        parser.error("--out and --plots, or --table, are needed")
    options.cells.mkdir(parents=True, exist_ok=True)
    steps = options.cells / STEPS_FILE
    steps.write_text(json.dumps(json.loads(STEP_TIME.read_text())["fit"]["step_time"]))
    studies = json.loads(options.out.read_text())["studies"] if options.out.exists() else {}
    for name in options.study or STUDIES:
        study = STUDIES[name]
        if study.trace.startswith("/") and not Path(study.trace).exists():
            print(f"{name}: left out, there is no {Path(study.trace).name} here", file=sys.stderr)
            continue
        studies[name] = {**study.run(options.cells), **machine.provenance("numpy")}
        results = {"what": "Policies on a simulated engine of 64 slots; seconds", "studies": studies}
        machine.write(options.out, results)
        policy_plots.draw(studies, options.plots)


def _print_tables(studies: Mapping[str, Any]) -> None:
    if {"main", "frontier", "kv-h100", "kv"} <= set(studies):
        print(policy_tables.bars(studies))
    for name, study in studies.items():
        print(f"\n{name}: {STUDIES[name].seeds} seeds, {study['predictions']}\n\n{policy_tables.by_load(study)}")


if __name__ == "__main__":
    main()
