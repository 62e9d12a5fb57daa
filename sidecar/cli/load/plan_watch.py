"""How long the loop takes, seen from an engine's plans."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from engine_adapter.agent.counters import Counters
from engine_adapter.agent.plan_book import PlanBook
from engine_adapter.board import NO_PREDICTION_AGE
from sidecar.cli.load.options import Gap

LEAST_GAP_S = 0.25
"""A shorter time without a fresh prediction is the loop's ordinary pace."""


class PlanWatch(PlanBook):
    """Follows one row at a time, from the engine that makes it to the first plan that rests on its prediction."""

    def __init__(self, engine_id: str) -> None:
        super().__init__(Counters())
        self._engine_id = engine_id
        self.latencies_ms: list[float] = []
        self.gaps: list[Gap] = []
        self._followed: tuple[int, int, float] | None = None
        self._fresh_s = 0.0

    def shipped(self, ages: Mapping[int, int]) -> None:
        """The engine makes these rows: handle to age. A request that is followed but runs no more gives way, for no
        newer row of it may come for long."""
        if self._followed is None or self._followed[0] not in ages:
            handle, age = next(iter(ages.items()))
            self._followed = handle, age, time.perf_counter()

    def add(self, number: int, handles: npt.NDArray[np.uint64], predicted_at_ages: npt.NDArray[np.uint32]) -> None:
        super().add(number, handles, predicted_at_ages)
        if self._followed is None:
            return
        handle, age, made_s = self._followed
        at_age = predicted_at_ages[handles == np.uint64(handle)]
        if not len(at_age):
            # It has ended before a plan told of it.
            self._followed = None
        elif age <= at_age[0] != NO_PREDICTION_AGE:
            self._followed = None
            self._fresh(time.perf_counter(), made_s)

    def take(self) -> tuple[list[float], list[Gap]]:
        """Latencies and gaps since the last call."""
        found = self.latencies_ms, self.gaps
        self.latencies_ms, self.gaps = [], []
        return found

    @property
    def silent_s(self) -> float:
        """Seconds since the last fresh prediction; 0 before the first."""
        return time.perf_counter() - self._fresh_s if self._fresh_s else 0.0

    def _fresh(self, now_s: float, made_s: float) -> None:
        self.latencies_ms.append((now_s - made_s) * 1000)
        if self._fresh_s and now_s - self._fresh_s > LEAST_GAP_S:
            self.gaps.append(Gap(time.time(), now_s - self._fresh_s, self._engine_id))
        self._fresh_s = now_s
