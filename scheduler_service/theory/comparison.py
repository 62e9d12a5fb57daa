"""Theory beside simulation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scheduler_service.theory.estimate import Estimate, simulate
from scheduler_service.theory.mean_response import fcfs, limited_grid, srpt
from scheduler_service.theory.named import joint_named


@dataclass(frozen=True, slots=True)
class Setting:
    """A queue: distributions by name (scheduler_service/theory/named.py) and the load, which is the arrival rate."""

    sizes: str
    predictions: str
    load: float


@dataclass(frozen=True, slots=True)
class Row:
    """Mean response time with limited preemption ``c``, in mean sizes; no ``simulation`` where none was asked for."""

    setting: Setting
    c: float
    theory: float
    simulation: Estimate | None

    @property
    def difference(self) -> float | None:
        """Theory divided by simulation, less 1."""
        return None if self.simulation is None else self.theory / self.simulation.mean - 1


@dataclass(frozen=True, slots=True)
class Comparison:
    """``rows``, one a limit, beside what first come, first served and what knowing the sizes (SRPT) would give."""

    setting: Setting
    fcfs: float
    srpt: float
    rows: tuple[Row, ...]


def compare(
    setting: Setting,
    limits: Sequence[float],
    requests: int,
    seed: int,
    progress: Callable[[int], None] = lambda _: None,
) -> Comparison:
    """``requests`` are simulated for each limit; none: theory only.

    Raises:
        ValueError: a field of the setting or a limit is out of range.
    """
    joint, rate = joint_named(setting.sizes, setting.predictions), setting.load
    theory = limited_grid(joint, [rate], limits)[0].tolist()
    found: Sequence[Estimate | None] = [None] * len(limits)
    if requests:
        found = simulate(joint, rate, limits, requests, seed, progress)
    rows = tuple(Row(setting, *each) for each in zip(limits, theory, found, strict=True))
    return Comparison(setting, fcfs(joint, rate), srpt(joint, rate), rows)
