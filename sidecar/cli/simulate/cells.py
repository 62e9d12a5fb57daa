"""A cell of a sweep: one policy at one load with one seed, run from a description that fits through a pickle."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from sidecar.cli.simulate.arms import parse_arm
from sidecar.cli.simulate.confusion import FILE_NAME
from sidecar.cli.simulate.load_names import file_of, parse_load
from sidecar.cli.simulate.loads import Load
from sidecar.cli.simulate.metrics import measure
from sidecar.cli.simulate.planning import Planning
from sidecar.cli.simulate.prediction_names import parse_predictions
from sidecar.cli.simulate.predictions import ErrorModel
from sidecar.cli.simulate.setup import EngineSetup
from sidecar.cli.simulate.simulation import Simulation

PREDICTIONS_STREAM = 7
"""Seeds the errors apart from the arrivals."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """What all cells of a sweep share. ``capacity_rps`` is load 1; ``duration_s`` of arrivals, None: the load's own."""

    trace: str
    predictions: str
    setup: EngineSetup
    capacity_rps: float
    duration_s: float | None
    every: int
    plan_delay_steps: int

    @property
    def files(self) -> tuple[Path | None, Path]:
        """What else its results depend on, where these exist."""
        return file_of(self.trace), Path(self.predictions.partition(":")[2]) / FILE_NAME


@dataclass(frozen=True, slots=True)
class Cell:
    """Load is a share of the capacity."""

    policy: str
    load: float
    seed: int

    @property
    def key(self) -> dict[str, Any]:
        return {"policy": self.policy, "load": self.load, "seed": self.seed}


def run_cell(experiment: Experiment, cell: Cell) -> dict[str, Any]:
    """Runs a cell; arrivals, lengths and prediction errors depend on its load and seed alone."""
    setup, arm = experiment.setup, parse_arm(cell.policy)
    rate = cell.load * experiment.capacity_rps
    source = _load(experiment.trace)
    workload = source.draw(rate, experiment.duration_s, cell.seed)
    planning = None
    if arm.choice is not None:
        rng = np.random.default_rng([cell.seed, PREDICTIONS_STREAM])
        paths = _predictions(experiment.predictions).paths(workload.output_tokens, rng)
        planning = Planning(arm, setup.capacity, paths, experiment.every, experiment.plan_delay_steps)
    ledger = Simulation(setup, workload, planning).run()
    # What came: lengths and gaps are drawn, so a seed can bring some percent more or less than asked for.
    span_s = float(workload.arrival_s[-1] - workload.arrival_s[0])
    served_tokens_per_s = experiment.capacity_rps * source.mean_output_tokens
    came = float(workload.output_tokens.sum()) / (span_s * served_tokens_per_s) if span_s > 0 else None
    return cell.key | {"realised_load": came} | asdict(measure(workload, ledger, setup))


@lru_cache(maxsize=4)
def _load(trace: str) -> Load:
    return parse_load(trace)


@lru_cache(maxsize=4)
def _predictions(text: str) -> ErrorModel:
    return parse_predictions(text)
