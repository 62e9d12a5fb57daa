"""Distributions of a request's size with mean 1: the mean size is the unit of time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

Floats = npt.NDArray[np.float64]
Moments = tuple[Floats, Floats, Floats]

REACH = 8.0
"""Standard deviations of a normal distribution beyond which nothing counts: 1e-15 of the mass."""


class Sizes(Protocol):
    """What the formulas need to know of the size X, which is positive and has mean 1."""

    @property
    def log_span(self) -> tuple[float, float]:
        """Range of log X that holds all of E[X**2] and of P(X > 0) that counts."""

    def density(self, size: Floats) -> Floats:
        """f(x), elementwise."""

    def moments_below(self, size: Floats) -> Moments:
        """P(X <= x), E[X; X <= x] and E[X**2; X <= x], elementwise; x may be infinite."""

    def draw(self, rng: np.random.Generator, count: int) -> Floats:
        """Independent sizes [count]."""


@dataclass(frozen=True, slots=True)
class ExponentialSizes:
    """f(x) = exp(-x)."""

    @property
    def log_span(self) -> tuple[float, float]:
        return -18.0, 4.0

    def density(self, size: Floats) -> Floats:
        return np.exp(-size)

    def moments_below(self, size: Floats) -> Moments:
        x = np.minimum(size, 700.0)  # exp(-700) is nothing, and inf * 0 would be no number
        above = np.exp(-x)
        return 1 - above, 1 - (1 + x) * above, 2 - (2 + 2 * x + x * x) * above

    def draw(self, rng: np.random.Generator, count: int) -> Floats:
        return rng.exponential(size=count)


@dataclass(frozen=True, slots=True)
class LogNormalSizes:
    """log X is normal with standard deviation ``sigma`` and mean -sigma**2 / 2."""

    sigma: float

    @property
    def log_span(self) -> tuple[float, float]:
        middle, reach = -(self.sigma**2) / 2, REACH * self.sigma
        return middle - reach, middle + 2 * self.sigma**2 + reach

    def density(self, size: Floats) -> Floats:
        z = np.log(size) / self.sigma + self.sigma / 2
        return np.exp(-z * z / 2) / (size * self.sigma * math.sqrt(2 * math.pi))

    def moments_below(self, size: Floats) -> Moments:
        z = np.log(size) / self.sigma + self.sigma / 2
        return ndtr(z), ndtr(z - self.sigma), math.exp(self.sigma**2) * ndtr(z - 2 * self.sigma)

    def draw(self, rng: np.random.Generator, count: int) -> Floats:
        return rng.lognormal(-(self.sigma**2) / 2, self.sigma, count)
