"""Sources of requests: a recorded trace, or lengths with a process of arrivals."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np

from sidecar.cli.simulate.workload import Floats, Ints, Workload

ALPACA_MEDIAN, ALPACA_SIGMA, ALPACA_CAP = 110.0, 1.3, 1024
PROMPT_MEDIAN, PROMPT_SIGMA, PROMPT_CAP = 30.0, 0.7, 512


class Load(ABC):
    """A source of requests."""

    @abstractmethod
    def draw(self, rate: float, duration_s: float | None, seed: int) -> Workload:
        """Requests at a mean rate a second, for so long; None is the source's own length."""

    @abstractmethod
    def typical(self, count: int) -> Workload:
        """So many requests or a few more, all at once, by whose lengths the capacity is measured."""

    @property
    @abstractmethod
    def recorded_lengths(self) -> Workload | None:
        """The rows of the file whose lengths it has; None where it has no file."""

    @property
    def most_tokens(self) -> int:
        """Prompt and output of the longest request."""
        rows = self.recorded_lengths
        return PROMPT_CAP + ALPACA_CAP if rows is None else int((rows.prompt_tokens + rows.output_tokens).max())

    @property
    def mean_output_tokens(self) -> float:
        """Of all requests that it could draw."""
        rows = self.recorded_lengths
        return _alpaca_mean() if rows is None else float(rows.output_tokens.mean())

    @property
    def own_rate(self) -> float | None:
        """Requests a second as recorded, where the source tells."""
        return None


@dataclass(frozen=True, slots=True, eq=False)
class Trace(Load):
    """A recorded trace: its gaps are stretched or squeezed to the rate, and its order is kept."""

    recorded: Workload

    def draw(self, rate: float, duration_s: float | None, seed: int) -> Workload:
        """All of it, or a window of ``duration_s``: the first for seed 0, else one that the seed picks."""
        own = self.recorded.mean_rate
        times = self.recorded.arrival_s * (own / rate if np.isfinite(own) else 1.0)
        if duration_s is None or times[-1] <= duration_s:
            return self.recorded.take(np.arange(len(times)), times)
        starts = times[times <= times[-1] - duration_s]
        first = np.random.default_rng([seed, 3]).integers(len(starts)) if seed else 0
        rows = np.flatnonzero((times >= times[first]) & (times < times[first] + duration_s))
        return self.recorded.take(rows, times[rows] - times[first])

    def typical(self, count: int) -> Workload:
        rows = np.resize(np.arange(len(self.recorded)), count)
        return self.recorded.take(rows, np.zeros(count))

    @property
    def recorded_lengths(self) -> Workload | None:
        return self.recorded

    @property
    def own_rate(self) -> float | None:
        rate = self.recorded.mean_rate
        return rate if np.isfinite(rate) else None


@dataclass(frozen=True, slots=True, eq=False)
class Drawn(Load):
    """Independent requests. Gaps are gamma distributed with coefficient of variation ``cv`` (1 is Poisson), or there
    are none: all come at once. Lengths are those of ``lengths``, or Alpaca-like."""

    cv: float
    at_once: bool = False
    lengths: Workload | None = None

    def draw(self, rate: float, duration_s: float | None, seed: int) -> Workload:
        duration_s = 60.0 if duration_s is None else duration_s
        return self._drawn(self._arrivals(rate, duration_s, seed), seed)

    def typical(self, count: int) -> Workload:
        return self._drawn(np.zeros(count), 2**31)

    @property
    def recorded_lengths(self) -> Workload | None:
        return self.lengths

    def _arrivals(self, rate: float, duration_s: float, seed: int) -> Floats:
        if self.at_once:
            return np.zeros(max(round(rate * duration_s), 1))
        shape = self.cv**-2
        rng = np.random.default_rng([seed, 1])
        times = np.zeros(1)
        while times[-1] < duration_s:
            gaps = rng.gamma(shape, 1 / (shape * rate), 256)
            times = np.concatenate([times, times[-1] + np.cumsum(gaps)])
        return times[1:][times[1:] < duration_s] if times[1] < duration_s else np.zeros(1)

    def _drawn(self, arrival_s: Floats, seed: int) -> Workload:
        rng, count = np.random.default_rng([seed, 2]), len(arrival_s)
        if self.lengths is not None:
            return self.lengths.take(rng.integers(len(self.lengths), size=count), arrival_s)
        scores = rng.standard_normal((count, 2))
        output = _log_normal(scores[:, 0], ALPACA_MEDIAN, ALPACA_SIGMA, ALPACA_CAP)
        prompt = _log_normal(scores[:, 1], PROMPT_MEDIAN, PROMPT_SIGMA, PROMPT_CAP)
        return Workload(arrival_s, prompt, output)


def _log_normal(scores: Floats, median: float, sigma: float, cap: int) -> Ints:
    drawn: Ints = np.clip(np.rint(median * np.exp(sigma * scores)), 1, cap).astype(np.int64)
    return drawn


@cache
def _alpaca_mean() -> float:
    """Mean output tokens of what ``alpaca`` draws, by its quantiles."""
    levels = (np.arange(10_000) + 0.5) / 10_000
    scores = np.array([NormalDist().inv_cdf(level) for level in levels.tolist()])
    return float(_log_normal(scores, ALPACA_MEDIAN, ALPACA_SIGMA, ALPACA_CAP).mean())
