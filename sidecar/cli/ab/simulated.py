"""From a pilot on simulated engines to a plan, and from the plan to many experiments."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from engine_adapter.simulated.step_time import constant
from sidecar.cli.ab.errors import AbError
from sidecar.cli.ab.traces import Trace, Traffic, block_figures, engine_traces
from sidecar.cli.ab.trials import Plan, Trials, design_for, pilot_noise, planned, tried
from sidecar.cli.simulate.capacity import measure_capacity
from sidecar.cli.simulate.load_names import parse_load
from sidecar.cli.simulate.setup import EngineSetup

PILOT_ENGINES, PILOT_BLOCKS = 4, 40
SLACK = 1.3
"""A trace is longer than an experiment, so that runs begin at different places."""
Advance = Callable[[str, int], Callable[[], None]]
"""Begins a bar of so many steps, and gives what takes one."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """`planned_effect` is what power is planned for, `true_effect` what there is: shares of control's figure."""

    planned_effect: float
    true_effect: float
    figure: str
    alpha: float
    power: float
    engines: int
    runs: int
    block_s: float
    trace: str
    load: float
    slots: int
    step_ms: float
    traces: int
    seed: int
    jobs: int


@dataclass(frozen=True, slots=True)
class Simulated:
    """`blocks` are those of each engine; `p99_latency_s` is the pilot's, and the washout at least that."""

    wanted: Wanted
    capacity_rps: float
    p99_latency_s: float
    washout_s: float
    blocks: int
    plan: Plan
    trials: Trials


def simulated(wanted: Wanted, advance: Advance) -> Simulated:
    """Raises AbError and SimulateError."""
    setup = EngineSetup(constant(wanted.step_ms / 1000), slots=wanted.slots)
    capacity_rps = measure_capacity(setup, parse_load(wanted.trace))

    def engines(what: str, seeds: range, blocks: int) -> list[Trace]:
        traffic = Traffic(wanted.trace, setup, capacity_rps, wanted.load, blocks * wanted.block_s)
        return engine_traces(traffic, seeds, wanted.jobs, advance(what, len(seeds)))

    first = wanted.seed * 1000
    pilot = engines("pilot: engines", range(first, first + PILOT_ENGINES), PILOT_BLOCKS)
    p99_s = float(np.quantile(np.concatenate([trace.latency_s for trace in pilot]), 0.99))
    washout_s = float(math.ceil(p99_s))
    if wanted.block_s <= 2 * washout_s:
        text = f"--block-s {wanted.block_s:g}: too short, for the washout at both ends is {washout_s:g} s"
        raise AbError(f"{text} (99 % of requests take less); more than {2 * washout_s:g} is needed")
    noise = pilot_noise(
        [block_figures(trace, wanted.block_s, washout_s, PILOT_BLOCKS) for trace in pilot], wanted.figure
    )
    plan = planned(noise, math.log1p(wanted.planned_effect), wanted.alpha, wanted.power, wanted.engines)
    if plan is None:
        text = (
            f"--effect {wanted.planned_effect:g}: too small to be found among blocks that differ by {noise.std():.2f}"
        )
        raise AbError(f"{text} by themselves; longer blocks (--block-s) differ less")
    design = design_for(plan, wanted.figure, wanted.alpha, wanted.engines, wanted.block_s, washout_s)
    blocks = math.ceil(SLACK * design.blocks)
    seeds = range(first + PILOT_ENGINES, first + PILOT_ENGINES + wanted.traces)
    pool = [block_figures(trace, wanted.block_s, washout_s, blocks) for trace in engines("engines", seeds, blocks)]
    trials = tried(
        design, pool, math.log1p(wanted.true_effect), wanted.runs, wanted.seed, advance("experiments", wanted.runs)
    )
    return Simulated(wanted, capacity_rps, p99_s, washout_s, design.blocks, plan, trials)
