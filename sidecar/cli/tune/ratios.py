"""Figures of one variant over those of another, run by run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sidecar.cli.simulate.summary import mean_and_half

Pair = tuple[float, int]
"""A load and a seed: runs of one pair served the same requests."""
Runs = Mapping[Pair, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Ratio:
    """A geometric mean with its 95 % interval (Student's t of the logarithms); no bounds for a single value."""

    ratio: float
    low: float | None = None
    high: float | None = None

    @property
    def is_lower(self) -> bool:
        """Whether it is below 1 by more than chance."""
        return self.high is not None and self.high < 1


def over_pairs(runs: Runs, base: Runs, figure: str) -> Ratio:
    """runs / base, the interval over all pairs of load and seed: would it be so at another load, too?"""
    return _ratio(_logs(runs, base, figure).values())


def over_seeds(runs: Runs, base: Runs, figure: str) -> Ratio:
    """runs / base, the interval over seeds alone, as loads differ on purpose."""
    by_seed: dict[int, list[float]] = {}
    for (_, seed), log in _logs(runs, base, figure).items():
        by_seed.setdefault(seed, []).append(log)
    return _ratio(sum(logs) / len(logs) for logs in by_seed.values())


def _logs(runs: Runs, base: Runs, figure: str) -> dict[Pair, float]:
    return {pair: math.log(run[figure] / base[pair][figure]) for pair, run in runs.items()}


def _ratio(logs: Iterable[float]) -> Ratio:
    mean, half = mean_and_half(list(logs))
    if half is None:
        return Ratio(math.exp(mean))
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half))
