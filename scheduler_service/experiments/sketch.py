"""A distribution in a few hundred bytes, which adds up over processes."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

GAMMA = 1.02
_LOG_GAMMA = math.log(GAMMA)
LEAST = 1e-4


@dataclass(slots=True)
class Sketch:
    """Counts in bins (GAMMA^(b-1), GAMMA^b], so a quantile is off by 1 % at most; the mean is exact.

    Values below `LEAST` count as `LEAST` in the bins (Masson et al., DDSketch, VLDB 2019).
    """

    sum: float = 0.0
    bins: Counter[int] = field(default_factory=Counter)

    def add(self, value: float) -> None:
        """Takes in a value of 0 or more."""
        self.sum += value
        self.bins[math.ceil(math.log(max(value, LEAST)) / _LOG_GAMMA)] += 1

    def merge(self, other: Self) -> None:
        self.sum += other.sum
        self.bins.update(other.bins)

    @property
    def count(self) -> int:
        return self.bins.total()

    @property
    def mean(self) -> float | None:
        return self.sum / self.count if self.count else None

    def quantile(self, share: float) -> float | None:
        """The smallest value that at least `share` of all do not exceed, within 1 %."""
        wanted, seen = share * self.count, 0
        for number in sorted(self.bins):
            seen += self.bins[number]
            if seen >= wanted:
                return 2 * GAMMA**number / (GAMMA + 1)
        return None

    def packed(self) -> dict[str, Any]:
        return {"sum": self.sum, "bins": {str(number): count for number, count in self.bins.items()}}

    @classmethod
    def unpacked(cls, found: dict[str, Any]) -> Self:
        """Raises ValueError, TypeError, KeyError or AttributeError for what `packed` did not make."""
        return cls(float(found["sum"]), Counter({int(number): int(count) for number, count in found["bins"].items()}))
