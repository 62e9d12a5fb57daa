"""Which values are taken: pure rules on ratios to the default, which stays where nothing is surely better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from sidecar.cli.tune.ratios import Ratio

EVERY_SLACK = 0.01
"""How much more mean latency K may cost, as a share of that at K = 1."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Trial:
    """Mean and p99 latency over the default's, each a geometric mean over the same loads and seeds."""

    mean: Ratio
    p99: Ratio

    def passes(self, p99_slack: float) -> bool:
        """Whether the mean is lower by more than chance, and the tail longer by the slack at most."""
        return self.keeps_tail(p99_slack) and self.mean.is_lower

    def keeps_tail(self, p99_slack: float) -> bool:
        return self.p99.ratio <= 1 + p99_slack


def best_of(trials: Mapping[T, Trial], p99_slack: float) -> T | None:
    """The value with the lowest mean latency of those that keep the tail; None, for the default, where that is not
    lower by more than chance. Only the lowest is tested: of many values one always looks good."""
    kept = {value: trial for value, trial in trials.items() if trial.keeps_tail(p99_slack)}
    lowest = min(kept, key=lambda value: kept[value].mean.ratio, default=None)
    return lowest if lowest is not None and kept[lowest].passes(p99_slack) else None


def together_is_best(together: Trial, singles: Mapping[T, Trial], p99_slack: float) -> bool:
    """Whether the chosen values together beat the default, and are no worse than the best of them alone."""
    return together.passes(p99_slack) and together.mean.ratio <= min(each.mean.ratio for each in singles.values())


def largest_every(mean_ratios: Mapping[int, float]) -> int:
    """The largest K whose mean latency, over that of K = 1, is within ``EVERY_SLACK``."""
    return max(every for every, ratio in mean_ratios.items() if every == 1 or ratio <= 1 + EVERY_SLACK)
