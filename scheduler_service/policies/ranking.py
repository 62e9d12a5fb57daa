"""What a policy is given and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scheduler_service.pairing import Lengths
from scheduler_service.view import Bools, EngineView, Floats, Ints
from scheduler_service.work import Work

NO_GUARD = 2**32 - 1
"""Age guard of a preemption that no age forbids."""


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """Arrays [N]: `ranks`, lower first, within `tiers`, lower first; `preemptible`, who may lose its place at all;
    `guard_age`, the age from which it may not any more (the preemption's guard)."""

    ranks: Floats
    tiers: Ints
    preemptible: Bools
    guard_age: Ints

    @classmethod
    def without_preemption(cls, ranks: Floats, tiers: Ints | None = None) -> Ranking:
        """An order in which whoever runs stays."""
        none = np.zeros(ranks.size, dtype=np.int64)
        return cls(ranks, none if tiers is None else tiers, none.astype(np.bool_), none)

    @classmethod
    def preemptive(cls, ranks: Floats, view: EngineView) -> Ranking:
        """An order in which whoever runs may lose its place at any age."""
        count = ranks.size
        return cls(ranks, np.zeros(count, dtype=np.int64), view.running.copy(), np.full(count, NO_GUARD))


@dataclass(frozen=True, slots=True)
class Policy:
    """A named pure function from a view to a ranking; the last argument is c of limited preemption.

    Row i of the answer depends on row i of the view and on the engine's own figures alone, so a planner may rank some
    rows only.
    """

    name: str
    rank: Callable[[EngineView, Lengths, Work, float], Ranking]
    uses_predictions: bool = True
    preempts: bool = False
    """Whether it may take a running request's place at all."""
    ages: bool = False
    """Whether its ranks are seconds of service, which waiting may make smaller (`aging`)."""
    moves: bool = False
    """Whether the order of two waiting requests may change by time alone."""
