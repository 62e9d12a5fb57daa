"""Whether the simulator, fitted to some runs of a real engine, tells how requests fared in others.

    python -m benchmarks.simulator_fit --steps benchmarks/results/engine-steps-135m-h100.json \
        --out benchmarks/results/simulator-fit.json

Three times, each time simulating a run with its own arrivals and lengths: `blocks` are fitted to the steps of every
other ten seconds of a run, and compared on the requests that arrived in the others; `halves` are fitted to the first
half of its steps, and compared on the requests that arrived in the second half of its time; `others` are fitted to the
steps of the first run, and compared on all requests of another.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from engine_adapter.simulated.batch import Bools
from engine_adapter.simulated.step_fit import StepFit, fit_step_time
from engine_adapter.simulated.step_time import StepTime
from sidecar.cli.simulate.setup import EngineSetup
from sidecar.cli.simulate.simulation import Simulation
from sidecar.cli.simulate.workload import Floats, Ints, Workload

BAR = 0.1
BLOCK_S = 10.0
BARRED = ("mean_latency_s", "mean_ttft_s")


def main(argv: Sequence[str] | None = None) -> None:
    """Fits, simulates, compares, and writes one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=Path, required=True, help="what benchmarks.engine_steps wrote")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    measured = json.loads(options.steps.read_text())
    runs = measured["runs"]
    fit = fitted(runs[0]["steps"])
    ways = {
        "blocks": [compared(measured, run, *alternating(run)) for run in runs[1:]],
        "halves": [compared(measured, run, *first_half(run)) for run in runs[1:]],
        "others": [compared(measured, run, fit.step_time, np.ones(len(run["requests"]), np.bool_)) for run in runs[1:]],
    }
    results = {
        "what": "Latency and TTFT of a real engine's requests, measured and simulated; seconds",
        **machine.provenance("numpy"),
        "steps": options.steps.name,
        "measured_on": measured["machine"],
        "bar": BAR,
        "fit": asdict(fit),
        **ways,
        "holds": {name: holds(cells) for name, cells in ways.items()},
    }
    machine.write(options.out, results)
    print(json.dumps(results["fit"]))
    for name, cells in ways.items():
        print(name, *map(json.dumps, cells), sep="\n")


def fitted(steps: Sequence[Sequence[float]] | Floats) -> StepFit:
    """Step time of these steps."""
    batch, prefill, kv, duration = np.array(steps, np.float64).T[:4]
    return fit_step_time(batch, prefill, kv, duration)


def holds(cells: Sequence[dict[str, Any]]) -> bool:
    """Whether all are within the bar."""
    return all(abs(cell[name]["ratio"] - 1) <= BAR for cell in cells for name in BARRED)


def alternating(run: dict[str, Any]) -> tuple[StepTime, Bools]:
    """Step time of every other block of time, and which requests [N] arrived in the blocks between."""
    steps = np.array(run["steps"], np.float64)
    fit = fitted(steps[_block(np.cumsum(steps[:, 3])) % 2 == 0])
    return fit.step_time, _block(_arrivals(run)) % 2 == 1


def first_half(run: dict[str, Any]) -> tuple[StepTime, Bools]:
    """Step time of the first half of the steps, and which requests [N] arrived in the second half of the time."""
    arrival_s = _arrivals(run)
    return fitted(run["steps"][: len(run["steps"]) // 2]).step_time, arrival_s >= arrival_s.max() / 2


def compared(measured: dict[str, Any], run: dict[str, Any], step_time: StepTime, of: Bools) -> dict[str, Any]:
    """Means and p99 over these requests [N] of a run, measured beside simulated."""
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
    found = {name: (how(real[of]), how(told[of])) for name, (real, told, how) in pairs.items()}
    return {
        "load": run["load"],
        "seed": run["seed"],
        "requests": int(of.sum()),
        **{
            name: {"measured": round(real, 4), "simulated": round(told, 4), "ratio": round(told / real, 4)}
            for name, (real, told) in found.items()
        },
    }


def _arrivals(run: dict[str, Any]) -> Floats:
    return np.array(run["requests"], np.float64)[:, 0]


def _block(times_s: Floats) -> Ints:
    return (times_s // BLOCK_S).astype(np.int64)


def _mean(values: Floats) -> float:
    return float(values.mean())


def _p99(values: Floats) -> float:
    return float(np.percentile(values, 99))


if __name__ == "__main__":
    main()
