"""How many requests a second the engine can serve first come, first served: load 1."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from sidecar.cli.simulate import store
from sidecar.cli.simulate.load_names import file_of
from sidecar.cli.simulate.loads import Load
from sidecar.cli.simulate.setup import EngineSetup
from sidecar.cli.simulate.simulation import Simulation

REQUESTS_PER_SLOT = 24
LEAST_REQUESTS = 400


def stored_capacity(setup: EngineSetup, load: Load, trace: str, out: Path | None) -> float:
    """``measure_capacity``, kept in the folder ``out`` for the next time, where one is given."""
    if out is None:
        return measure_capacity(setup, load)
    path = store.path_of(out, "capacity", [trace, asdict(setup)], [file_of(trace)])
    found = store.read(path)
    if found is None:
        found = {"capacity_rps": measure_capacity(setup, load)}
        store.write(path, found)
    return float(found["capacity_rps"])


def measure_capacity(setup: EngineSetup, load: Load) -> float:
    """Requests a second of an engine that always has some waiting.

    All arrive at once. Counted are the tokens generated from when a third of them has been admitted, so that the
    batch holds requests of all ages, until nobody waits; divided by the load's mean output, these are requests.
    """
    workload = load.typical(max(REQUESTS_PER_SLOT * setup.slots, LEAST_REQUESTS))
    simulation = Simulation(setup, workload, None)
    while simulation.advance() and len(simulation.model.queue) > 2 * len(workload) / 3:
        pass
    tokens, start_s = simulation.tokens, simulation.now_s
    while simulation.advance() and len(simulation.model.queue):
        pass
    rate = (simulation.tokens - tokens) / (simulation.now_s - start_s)
    return rate / load.mean_output_tokens
