"""Whether experiments can be believed: on simulated engines, where the truth is known. `python -m benchmarks.ab`.

False claims with no difference, power and coverage with one of 10 %, at every look; and, with two real policies, what a
switchback finds and what a split by requests inside an engine finds, beside the truth.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from scipy import stats

from benchmarks.machine import provenance, write
from engine_adapter.simulated.step_time import constant
from scheduler_service.experiments.analysis.pairs import Block, paired
from scheduler_service.experiments.assignment import arm_of
from scheduler_service.experiments.design import Arm as Group
from scheduler_service.experiments.design import Design
from scheduler_service.experiments.figures import FIGURES
from sidecar.cli.ab.mixing import Splitting, Switching
from sidecar.cli.ab.simulated import Wanted, simulated
from sidecar.cli.ab.traces import WARM_UP_S, Trace, Traffic, block_figures, trace_of
from sidecar.cli.simulate.arms import parse_arm
from sidecar.cli.simulate.capacity import measure_capacity
from sidecar.cli.simulate.load_names import parse_load
from sidecar.cli.simulate.planning import Planning
from sidecar.cli.simulate.prediction_names import parse_predictions
from sidecar.cli.simulate.setup import EngineSetup
from sidecar.cli.simulate.simulation import Simulation

CONTROL, TREATMENT = "fcfs", "default"
PREDICTIONS = "lognormal:0.75"
FIGURE = FIGURES["mean_latency"]
WAYS = (CONTROL, TREATMENT, "switchback", "split")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500, help="simulated experiments of each kind")
    parser.add_argument("--seeds", type=int, default=6, help="engines under two real policies")
    parser.add_argument("--blocks", type=int, default=20, help="blocks of each")
    parser.add_argument("--load", type=float, default=0.9, help="of those, a share of what the engine can serve")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ab.json"))
    given = parser.parse_args()
    wanted = Wanted(
        planned_effect=0.1, true_effect=0.0, figure=FIGURE.name, alpha=0.05, power=0.8, engines=2, runs=given.runs,
        block_s=180.0, trace="poisson:alpaca", load=0.7, slots=8, step_ms=20.0, traces=8, seed=0, jobs=given.jobs,
    )  # fmt: skip
    with Progress(console=Console(stderr=True)) as progress:

        def advance(what: str, steps: int) -> Any:
            task = progress.add_task(what, total=steps)
            return lambda: progress.advance(task)

        result: dict[str, Any] = provenance("numpy", "scipy", "statsmodels")
        result["aa"] = asdict(simulated(wanted, advance))
        result["ten_percent"] = asdict(simulated(replace(wanted, true_effect=0.1), advance))
        write(given.out, result)
        result["split"] = _split(wanted, given.seeds, given.blocks, given.load, given.jobs, advance)
        write(given.out, result)
    print(json.dumps({"aa": result["aa"]["trials"], "ten_percent": result["ten_percent"]["trials"]}, indent=1))
    print(json.dumps(result["split"], indent=1))


def _split(wanted: Wanted, seeds: int, blocks: int, load: float, jobs: int, advance: Any) -> dict[str, Any]:
    """The same arrivals and lengths under control alone, treatment alone, by turns, and mixed in one engine."""
    setup = EngineSetup(constant(wanted.step_ms / 1000), slots=wanted.slots)
    capacity_rps = measure_capacity(setup, parse_load(wanted.trace))
    washout_s, block_s = 40.0, 240.0
    traffic = Traffic(wanted.trace, setup, capacity_rps, load, blocks * block_s)
    tasks = [(way, seed) for seed in range(seeds) for way in WAYS]
    done = advance("two policies", len(tasks))
    found: dict[tuple[str, int], Any] = {}
    with ProcessPoolExecutor(jobs) as pool:
        running = {task: pool.submit(_run, traffic, blocks, block_s, washout_s, *task) for task in tasks}
        for task, future in running.items():
            found[task] = future.result()
            done()
    truth, switchback, split = [], [], []
    for seed in range(seeds):
        control, treated = found[CONTROL, seed], found[TREATMENT, seed]
        truth += [
            FIGURE.difference(one[FIGURE.name], other[FIGURE.name]) for one, other in zip(treated, control, strict=True)
        ]
        design = _design(blocks, block_s, washout_s, seed)
        mixed = [
            Block("e", at, arm_of(design, "e", at).name, 1, each) for at, each in enumerate(found["switchback", seed])
        ]
        switchback += paired(mixed, 2, TREATMENT, CONTROL, FIGURE).differences.tolist()
        split.append(found["split", seed])
    return {
        "control": CONTROL, "treatment": TREATMENT, "predictions": PREDICTIONS, "load": load, "block_s": block_s,
        "washout_s": washout_s, "blocks": blocks, "seeds": seeds, "figure": FIGURE.name,
    } | _summary(truth, switchback, split, seeds)  # fmt: skip


def _summary(truth: Any, switchback: Any, split: Any, seeds: int) -> dict[str, Any]:
    """`bias` is how much larger the split's latency ratio is than the truth's, paired by seed."""
    return {
        "truth": _told(truth, seeds), "switchback": _told(switchback, seeds), "split_by_request": _told(split, seeds),
        "bias": _told(_by_seed(split, seeds) - _by_seed(truth, seeds), seeds),
    }  # fmt: skip


def _told(log_ratios: Any, seeds: int) -> dict[str, Any]:
    """With Student's 95 % interval over seeds: blocks of one engine are not independent."""
    means = _by_seed(log_ratios, seeds)
    half = float(stats.t.ppf(0.975, seeds - 1)) * means.std(ddof=1) / math.sqrt(seeds)
    mean = means.mean()
    return {
        "effect": math.expm1(mean), "low": math.expm1(mean - half), "high": math.expm1(mean + half),
        "log_ratios": np.asarray(log_ratios, np.float64).tolist(),
    }  # fmt: skip


def _by_seed(log_ratios: Any, seeds: int) -> Any:
    return np.asarray(log_ratios, np.float64).reshape(seeds, -1).mean(axis=1)


def _design(blocks: int, block_s: float, washout_s: float, seed: int) -> Design:
    arms = (Group(name=CONTROL, policy={"policy": "fcfs"}), Group(name=TREATMENT))
    return Design(
        name="split", arms=arms, engines=("e",), block_s=block_s, washout_s=washout_s, groups=blocks // 2, seed=seed
    )


def _run(traffic: Traffic, blocks: int, block_s: float, washout_s: float, way: str, seed: int) -> Any:
    workload = traffic.drawn(seed)
    paths = parse_predictions(PREDICTIONS).paths(workload.output_tokens, np.random.default_rng([seed, 7]))
    control, treatment = parse_arm(CONTROL), parse_arm(TREATMENT)
    capacity = traffic.setup.capacity
    treated = np.flatnonzero(np.random.default_rng([seed, 8]).random(len(workload)) < 0.5)
    if way == "switchback":
        design = _design(blocks, block_s, washout_s, seed)

        def arm_at(now_s: float) -> Any:
            block = int(np.clip((now_s - WARM_UP_S) // block_s, 0, blocks - 1))
            return treatment if arm_of(design, "e", block).name == TREATMENT else control

        planning: Planning = Switching(arm_at, control, capacity, paths)
    elif way == "split":
        planning = Splitting((treated + 1).astype(np.uint64), control, treatment, capacity, paths)
    else:
        planning = Planning(control if way == CONTROL else treatment, capacity, paths, 1, 1)
    trace = trace_of(workload, Simulation(traffic.setup, workload, planning).run())
    if way != "split":
        return block_figures(trace, block_s, washout_s, blocks)
    return _split_effect(trace, np.isin(np.flatnonzero(workload.arrival_s >= WARM_UP_S), treated))


def _split_effect(trace: Trace, treated: Any) -> float:
    return math.log(float(trace.latency_s[treated].mean()) / float(trace.latency_s[~treated].mean()))


if __name__ == "__main__":
    main()
