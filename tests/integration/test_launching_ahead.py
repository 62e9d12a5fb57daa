"""An engine that schedules ahead and waits for its CPU reports, beside each step, how long the next one took: nothing
that plans do may hang on whose time it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine_adapter.simulated.step_result import StepResult
from engine_adapter.simulated.step_time import StepTime
from sidecar.cli.simulate.arms import parse_arm
from sidecar.cli.simulate.error_models import LogNormal
from sidecar.cli.simulate.ledger import Ledger
from sidecar.cli.simulate.load_names import parse_load
from sidecar.cli.simulate.planning import Planning
from sidecar.cli.simulate.setup import EngineSetup
from sidecar.cli.simulate.simulation import Simulation

SMALL_MODEL = StepTime(1.5e-3, 3.6e-5, 2.2e-5, 0.0, 6.2e-3)
"""About what a 135M shape's steps take on an H100."""


class Ahead(Planning):
    """Hears with each step what the step after it takes, not what it took itself."""

    def stepped(self, step: int, result: StepResult, last_duration_s: float, **more: Any) -> None:
        load = result.load
        now_s = float(SMALL_MODEL.of(load.batch, load.prefill_tokens, load.kv_tokens))
        super().stepped(step, result, now_s if last_duration_s else 0.0, **more)


def served(kind: type[Planning], setup: EngineSetup, rate: float) -> tuple[float, Ledger]:
    """Mean latency in seconds, and what happened."""
    workload = parse_load("poisson:alpaca").draw(rate, 20.0, 1)
    paths = LogNormal(0.75).paths(workload.output_tokens, np.random.default_rng(0))
    planning = kind(parse_arm("default"), setup.capacity, paths, 1, 1)
    ledger = Simulation(setup, workload, planning, leaps=False).run()
    return float(np.mean(ledger.finished_s - workload.arrival_s)), ledger


@pytest.mark.parametrize(
    ("setup", "rate"),
    [
        (EngineSetup(SMALL_MODEL, slots=64, kv_blocks=10_000, token_budget=2048), 66.0),
        (EngineSetup(SMALL_MODEL, slots=128, kv_blocks=500, token_budget=2048), 36.0),
    ],
    ids=["slots", "memory"],
)
def test_latency_and_evictions_are_those_of_an_engine_that_reports_its_own_times(
    setup: EngineSetup, rate: float
) -> None:
    own_s, own = served(Planning, setup, rate)
    ahead_s, ahead = served(Ahead, setup, rate)
    assert ahead_s == pytest.approx(own_s, rel=0.1)
    assert ahead.evictions <= 1.5 * own.evictions + 10
