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
    """Arrays [N]: `ranks`, lower first; `preemptible`, who may lose its place at all; `guard_age`, the age
    from which it may not any more (the preemption's guard)."""

    ranks: Floats
    preemptible: Bools
    guard_age: Ints

    @classmethod
    def without_preemption(cls, ranks: Floats) -> Ranking:
        """An order in which whoever runs stays."""
        return cls(ranks, np.zeros(ranks.size, dtype=np.bool_), np.zeros(ranks.size, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Policy:
    """A named pure function from a view to a ranking; `limit` is c of limited preemption.

    Row i of the answer depends on row i of the view alone or on symmetric facts of the whole, so that the
    order of the rows says nothing.
    """

    name: str
    rank: Callable[[EngineView, Lengths, Work, float], Ranking]
    uses_predictions: bool = True
