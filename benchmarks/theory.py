"""Mean response time by formula beside a simulation of the same queue, and beside the figures of an earlier derivation.

    python -m benchmarks.theory --out benchmarks/results/theory.json --plot docs/theory.svg
    python -m benchmarks.theory --table benchmarks/results/theory.json

The first takes about twelve minutes on two busy cores; the second prints the tables of docs/theory.md.
"""

import argparse
import json
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from benchmarks import machine
from scheduler_service.theory.comparison import Comparison, Setting, compare
from scheduler_service.theory.estimate import Estimate
from scheduler_service.theory.mean_response import limited_grid
from scheduler_service.theory.named import joint_named
from scheduler_service.theory.plot import draw

LIMITS = (0.0, 0.2, 0.5, 0.8, 1.0)
SIZES = ("lognormal:0.3", "exponential", "lognormal:1")
PREDICTIONS = ("perfect", "exponential", "lognormal:0.75")
REQUESTS = {0.5: 1_000_000, 0.7: 1_000_000, 0.8: 2_000_000, 0.9: 5_000_000}
"""Simulated for each limit, by load."""
REFERENCE_LOAD = 0.8
REFERENCE = {
    "exponential": (3.380, 3.199, 3.164, 3.147, 3.142),
    "perfect": (2.884, 2.640, 2.430, 2.359, 2.354),
}
"""Found before this code was written, for exponential sizes at load 0.8 and LIMITS."""
FINER = 4
SEED = 20
ALLOWED = 0.01


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and writes, or prints the tables of what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON to write")
    parser.add_argument("--plot", type=Path, help="figure to draw")
    parser.add_argument("--table", type=Path, help="print the tables of this JSON and do nothing else")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--workers", type=int, default=2, help="processes")
    options = parser.parse_args(argv)
    if options.table:
        print(tables(json.loads(options.table.read_text())))
        return
    if not options.out:
        parser.error("--out or --table is needed")
    begun = time.perf_counter()
    settings = [Setting(*each) for each in product(SIZES, PREDICTIONS, REQUESTS)]
    with ProcessPoolExecutor(options.workers) as pool:
        found = pool.map(_compare, settings, [options.seed] * len(settings))
        comparisons = list(track(found, "simulating", len(settings), console=Console(stderr=True)))
    results = {
        "what": "Mean response time in M/G/1 with limited preemption, in mean sizes; intervals 95 %",
        **machine.provenance("numpy", "scipy"),
        "seed": options.seed,
        "seconds": round(time.perf_counter() - begun),
        "allowed_relative_difference": ALLOWED,
        "reference": [_reference(predictions) for predictions in REFERENCE],
        "quadrature": [_quadrature(*each) for each in product(SIZES, PREDICTIONS)],
        "grid": [_cells(each) for each in comparisons],
    }
    machine.write(options.out, results)
    if options.plot:
        draw(comparisons, options.plot)
    print(tables(results))
    off = [row for each in comparisons for row in each.rows if abs(row.difference or 0) > ALLOWED]
    if off:
        raise SystemExit(f"theory and simulation differ by more than {ALLOWED:.0%} in {len(off)} cells: {off}")


def _compare(setting: Setting, seed: int) -> Comparison:
    return compare(setting, LIMITS, REQUESTS[setting.load], seed)


def _reference(predictions: str) -> dict[str, Any]:
    """A row of the earlier table, beside ours."""
    ours = limited_grid(joint_named("exponential", predictions), [REFERENCE_LOAD], LIMITS)[0]
    reference = np.array(REFERENCE[predictions])
    return {
        "sizes": "exponential",
        "predictions": predictions,
        "load": REFERENCE_LOAD,
        "c": LIMITS,
        "theory": ours.tolist(),
        "reference": reference.tolist(),
        "relative_difference": (ours / reference - 1).tolist(),
    }


def _quadrature(sizes: str, predictions: str) -> dict[str, Any]:
    """How long the grid takes, and the largest change when nodes and knots are `FINER` times as many."""
    begun = time.perf_counter()
    ours = limited_grid(joint_named(sizes, predictions), list(REQUESTS), LIMITS)
    seconds = time.perf_counter() - begun
    finer = limited_grid(joint_named(sizes, predictions, FINER), list(REQUESTS), LIMITS)
    change = float(np.abs(ours / finer - 1).max())
    return {"sizes": sizes, "predictions": predictions, "seconds": round(seconds, 3), f"change_at_{FINER}x": change}


def _cells(comparison: Comparison) -> dict[str, Any]:
    cells = [
        {
            "c": row.c,
            "theory": row.theory,
            "relative_difference": row.difference,
            "simulation": _samples(row.simulation),
        }
        for row in comparison.rows
        if row.simulation
    ]
    requests = REQUESTS[comparison.setting.load]
    return {
        **asdict(comparison.setting),
        "requests": requests,
        "fcfs": comparison.fcfs,
        "srpt": comparison.srpt,
        "cells": cells,
    }


def _samples(estimate: Estimate) -> dict[str, Any]:
    """With what each batch of requests says, its luck taken off."""
    return {**asdict(estimate), "batches": [round(value, 4) for value in estimate.batches]}


def tables(results: dict[str, Any]) -> str:
    """Markdown: the earlier figures, the grid at one load, and the largest differences."""
    head = [f"C = {c:g}" for c in LIMITS]
    earlier = [["predictions", "", *head]]
    for row in results["reference"]:
        earlier.append([row["predictions"], "theory", *(f"{value:.3f}" for value in row["theory"])])
        earlier.append(["", "earlier", *(f"{value:.3f}" for value in row["reference"])])
        earlier.append(["", "difference", *(f"{value:+.2%}" for value in row["relative_difference"])])
    grid = [["sizes", "predictions", "FCFS", *head, "SRPT"]]
    for each in results["grid"]:
        if each["load"] == REFERENCE_LOAD:
            cells = (f"{cell['theory']:.3f} ({cell['relative_difference']:+.2%})" for cell in each["cells"])
            grid.append([each["sizes"], each["predictions"], f"{each['fcfs']:.3f}", *cells, f"{each['srpt']:.3f}"])
    worst = [["load", "cells", "largest difference", "outside the 95 % interval", "widest interval"]]
    worst += [_worst(results, load) for load in REQUESTS]
    return "\n\n".join(_markdown(rows) for rows in (earlier, grid, worst))


def _worst(results: dict[str, Any], load: float) -> list[str]:
    cells = [cell for each in results["grid"] if each["load"] == load for cell in each["cells"]]
    off = [abs(cell["relative_difference"]) for cell in cells]
    outside = sum(abs(c["theory"] - c["simulation"]["mean"]) > c["simulation"]["half_width"] for c in cells)
    widest = max(cell["simulation"]["half_width"] / cell["simulation"]["mean"] for cell in cells)
    return [f"{load:g}", str(len(cells)), f"{max(off):.2%}", str(outside), f"+- {widest:.2%}"]


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
