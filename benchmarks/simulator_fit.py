"""Whether the simulator, fitted to some runs of a real engine, tells how requests fared in others.

    python -m benchmarks.simulator_fit --steps benchmarks/results/engine-steps-135m-h100.json \
        --out benchmarks/results/simulator-fit.json

The step time is fitted to the steps of the first run; every other run is then simulated with its own arrivals and
lengths.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from engine_adapter.simulated.step_fit import fit_step_time
from engine_adapter.simulated.step_time import StepTime
from sidecar.cli.simulate.setup import EngineSetup
from sidecar.cli.simulate.simulation import Simulation
from sidecar.cli.simulate.workload import Floats, Workload

BAR = 0.1
BARRED = ("mean_latency_s", "mean_ttft_s")


def main(argv: Sequence[str] | None = None) -> None:
    """Fits, simulates, compares, and writes one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=Path, required=True, help="what benchmarks.engine_steps wrote")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    measured = json.loads(options.steps.read_text())
    batch, prefill, kv, duration = np.array(measured["runs"][0]["steps"], np.float64).T[:4]
    fit = fit_step_time(batch, prefill, kv, duration)
    cells = [compared(measured, run, fit.step_time) for run in measured["runs"][1:]]
    results = {
        "what": "Latency and TTFT of a real engine's requests, measured and simulated; seconds",
        **machine.provenance("numpy"),
        "steps": options.steps.name,
        "measured_on": measured["machine"],
        "bar": BAR,
        "fit": asdict(fit),
        "cells": cells,
        "holds": all(
            abs(cell[name]["ratio"] - 1) <= BAR for cell in cells for name in ("mean_latency_s", "mean_ttft_s")
        ),
    }
    machine.write(options.out, results)
    print(json.dumps(results["fit"]), *map(json.dumps, cells), sep="\n")


def compared(measured: dict[str, Any], run: dict[str, Any], step_time: StepTime) -> dict[str, Any]:
    """Means and p99 over a run's requests, measured beside simulated."""
    arrival_s, prompt, output, first_s, end_s, _ = np.array(run["requests"], np.float64).T
    setup = EngineSetup(
        step_time,
        slots=measured["slots"],
        kv_blocks=measured["kv_blocks"],
        block_tokens=measured["kv_block_tokens"],
        token_budget=measured["step_token_budget"],
    )
    ledger = Simulation(setup, Workload(arrival_s, prompt.astype(int), output.astype(int)), None).run()
    pairs: dict[str, tuple[Floats, Floats, Callable[[Floats], float]]] = {
        "mean_latency_s": (end_s - arrival_s, ledger.finished_s - arrival_s, _mean),
        "mean_ttft_s": (first_s - arrival_s, ledger.first_token_s - arrival_s, _mean),
        "p99_latency_s": (end_s - arrival_s, ledger.finished_s - arrival_s, _p99),
    }
    found = {name: (how(real), how(told)) for name, (real, told, how) in pairs.items()}
    return {
        "load": run["load"],
        "seed": run["seed"],
        "requests": len(arrival_s),
        **{
            name: {"measured": round(real, 4), "simulated": round(told, 4), "ratio": round(told / real, 4)}
            for name, (real, told) in found.items()
        },
    }


def _mean(values: Floats) -> float:
    return float(values.mean())


def _p99(values: Floats) -> float:
    return float(np.percentile(values, 99))


if __name__ == "__main__":
    main()
