"""What was typed of load and engine, checked before anything runs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from engine_adapter.simulated.step_fit import StepFit
from sidecar.cli.simulate.capacity import stored_capacity
from sidecar.cli.simulate.cells import Experiment
from sidecar.cli.simulate.errors import SimulateError
from sidecar.cli.simulate.load_names import parse_load
from sidecar.cli.simulate.loads import Load
from sidecar.cli.simulate.options import DEFAULT_LOADS, check_load, kv_blocks_of, loads_of, step_time_of
from sidecar.cli.simulate.prediction_names import parse_predictions
from sidecar.cli.simulate.setup import EngineSetup


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checked experiment: its source of requests, the loads as shares of the capacity, and the fit where the step
    time was fitted."""

    experiment: Experiment
    source: Load
    shares: list[float]
    fit: StepFit | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """Options by their names; ``default_loads`` are those of a source that has no rate of its own."""

    trace: str
    predictions: str
    load: str | None
    slots: int
    kv_blocks: int | None
    block_tokens: int
    token_budget: int
    seeds: int
    duration_s: float | None
    step_ms: float | None
    step_time: Path | None
    jobs: int
    prefix_cache: bool = True
    every: int = 1
    plan_delay_steps: int = 1
    default_loads: str = DEFAULT_LOADS

    @property
    def processes(self) -> int:
        return self.jobs or os.cpu_count() or 1

    def prepare(self, out: Path | None) -> Prepared:
        """Reads the files and measures the capacity, which is kept in the folder ``out`` where there is one.

        Raises:
            SimulateError: the first option that is wrong.
        """
        for name, least in (("seeds", 1), ("every", 1), ("plan_delay_steps", 1), ("jobs", 0)):
            value = getattr(self, name)
            if value < least:
                raise SimulateError(f"--{name.replace('_', '-')} {value}: must be {least} or more")
        if self.duration_s is not None and not 0 < self.duration_s < float("inf"):
            raise SimulateError(f"--duration-s {self.duration_s:g}: must be above 0")
        parse_predictions(self.predictions)
        time, fit = step_time_of(self.step_ms, self.step_time)
        source = parse_load(self.trace)
        blocks = kv_blocks_of(self.kv_blocks, source, self.slots, self.block_tokens)
        setup = EngineSetup(time, self.slots, blocks, self.block_tokens, self.token_budget, self.prefix_cache)
        check_load(setup, source)
        load = self.default_loads if self.load is None and source.own_rate is None else self.load
        # An entry that is no number is told before the capacity is measured, which takes a while.
        loads_of(load, source, 1.0)
        capacity_rps = stored_capacity(setup, source, self.trace, out)
        experiment = Experiment(
            self.trace, self.predictions, setup, capacity_rps, self.duration_s, self.every, self.plan_delay_steps
        )
        return Prepared(experiment, source, loads_of(load, source, capacity_rps), fit)
