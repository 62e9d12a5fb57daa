"""Simulated engines under load, cut into blocks, for trying experiments out on."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np

from scheduler_service.experiments.blocks import figures_of
from scheduler_service.experiments.design import Arm, Design
from scheduler_service.experiments.tally import Tally
from scheduler_service.experiments.timeline import Timeline
from scheduler_service.messages import Outcome
from sidecar.cli.simulate.ledger import Ledger
from sidecar.cli.simulate.load_names import parse_load
from sidecar.cli.simulate.setup import EngineSetup
from sidecar.cli.simulate.simulation import Simulation
from sidecar.cli.simulate.workload import Floats, Workload

WARM_UP_S = 300.0
"""The engine starts empty; what comes before this is not looked at."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What an engine gets: requests of a source (`trail simulate --trace`) at a share of what it can serve."""

    trace: str
    setup: EngineSetup
    capacity_rps: float
    load: float
    duration_s: float

    def drawn(self, seed: int) -> Workload:
        """So many seconds of it, after a warm-up."""
        duration_s = WARM_UP_S + self.duration_s
        return parse_load(self.trace).draw(self.load * self.capacity_rps, duration_s, seed)


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Requests of one engine in the order of arrival [N]: seconds since the warm-up ended."""

    arrival_s: Floats
    latency_s: Floats
    ttft_s: Floats
    output_tokens: Floats


def engine_traces(traffic: Traffic, seeds: Sequence[int], jobs: int, done: Callable[[], None]) -> list[Trace]:
    """Engines in their own order, one a seed."""
    if jobs == 1:
        traces = []
        for seed in seeds:
            traces.append(_own_order(traffic, seed))
            done()
        return traces
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(seeds)), mp_context=context) as pool:
        running = [pool.submit(_own_order, traffic, seed) for seed in seeds]
        for future in running:
            future.add_done_callback(lambda _: done())
        return [future.result() for future in running]


def trace_of(workload: Workload, ledger: Ledger) -> Trace:
    """A finished simulation, without its warm-up."""
    late = workload.arrival_s >= WARM_UP_S
    return Trace(
        workload.arrival_s[late] - WARM_UP_S,
        (ledger.finished_s - workload.arrival_s)[late],
        (ledger.first_token_s - workload.arrival_s)[late],
        workload.output_tokens[late].astype(np.float64),
    )


def _own_order(traffic: Traffic, seed: int) -> Trace:
    workload = traffic.drawn(seed)
    return trace_of(workload, Simulation(traffic.setup, workload, None).run())


def block_figures(trace: Trace, block_s: float, washout_s: float, blocks: int) -> list[dict[str, float]]:
    """Of every block, as the scheduler service would count them."""
    plain = Design.model_construct(arms=(Arm(name="a"),), groups=blocks, block_s=block_s, washout_s=washout_s)
    timeline = Timeline(plain, 0.0)
    tallies = [Tally() for _ in range(blocks)]
    rows = np.column_stack([trace.arrival_s, trace.latency_s, trace.ttft_s, trace.output_tokens])
    for arrival_s, latency_s, ttft_s, tokens in rows.tolist():
        block, ended_in = timeline.counted_in(arrival_s), timeline.counted_in(arrival_s + latency_s)
        if block is not None:
            tallies[block].add(Outcome(0, "stop", int(tokens), latency_s, ttft_s))
        if ended_in is not None:
            tallies[ended_in].finished_tokens += int(tokens)
    return [figures_of(tally, timeline.measured_s) for tally in tallies]
