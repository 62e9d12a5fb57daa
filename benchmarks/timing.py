"""Repeated timing of one thing."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Budget:
    """How often to repeat: until `seconds` are over, but at least and at most so many times."""

    seconds: float
    least: int
    most: int

    def __iter__(self) -> Iterator[int]:
        end = time.perf_counter() + self.seconds
        for index in range(self.most):
            if index >= self.least and time.perf_counter() > end:
                return
            yield index


WARM_UP = Budget(0.05, 2, 20)


def call_times(work: Callable[[], object], budget: Budget) -> list[float]:
    """Microseconds of each call of `work`, warmed up."""
    for _ in WARM_UP:
        work()
    times: list[float] = []
    for _ in budget:
        begun = time.perf_counter()
        work()
        times.append((time.perf_counter() - begun) * 1e6)
    return times


def summary(times_us: Sequence[float], rows: int) -> dict[str, Any]:
    """Median and 99th percentile, per run and per sample, and the samples they come from; microseconds."""
    median, p99 = (float(np.percentile(times_us, level)) for level in (50, 99))
    return {
        "median_us": round(median, 1),
        "p99_us": round(p99, 1),
        "us_per_sample": round(median / rows, 3),
        "samples_us": [round(sample, 1) for sample in times_us],
    }
