"""Closed blocks, from what all replicas counted."""

from __future__ import annotations

from scheduler_service.experiments.analysis.pairs import Block
from scheduler_service.experiments.figures import FIGURES
from scheduler_service.experiments.record import Record
from scheduler_service.experiments.store import ExperimentStore
from scheduler_service.experiments.tally import Tally


async def closed_blocks(store: ExperimentStore, record: Record, now_s: float) -> list[Block]:
    """Every block of every engine that is over. Raises RedisError, OSError and TimeoutError."""
    timeline, found = record.timeline, []
    if timeline is None:
        return []
    until_s = min(now_s, record.ended_s())
    for engine_id in record.design.engines:
        tallies, void = await store.tallies(engine_id, record.design.name)
        for number in range(record.design.blocks):
            if not timeline.closed(number, until_s):
                break
            tally = tallies.get(number, Tally())
            arm = record.arm_in(engine_id, number).name
            figures = figures_of(tally, timeline.measured_s)
            found.append(Block(engine_id, number, arm, tally.requests, figures, void.get(number, "")))
    return found


def figures_of(tally: Tally, measured_s: float) -> dict[str, float]:
    """Those that the tally can tell."""
    values = ((name, figure.of(tally, measured_s)) for name, figure in FIGURES.items())
    return {name: value for name, value in values if value is not None and tally.requests}
