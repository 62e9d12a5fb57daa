"""How far predictions are off: the factor M = prediction / size, independent of the size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scheduler_service.theory.sizes import REACH, Floats

NODES = 200


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """The factor M by quadrature: E[h(M)] = sum_j weight[j] h(value[j]), arrays [J]; ``draw`` gives samples."""

    value: Floats
    weight: Floats
    draw: Callable[[np.random.Generator, int], Floats]


def perfect() -> Factor:
    """M = 1: the prediction is the size."""
    return Factor(np.ones(1), np.ones(1), lambda _, count: np.ones(count))


def exponential(nodes: int = NODES) -> Factor:
    """M is exponential with mean 1: given the size x, the prediction is exponential with mean x."""
    log, step = np.linspace(-18.0, 4.0, nodes, retstep=True)
    value = np.exp(log)
    return Factor(value, value * np.exp(-value) * step, lambda rng, count: rng.exponential(size=count))


def lognormal(sigma: float, nodes: int = NODES) -> Factor:
    """log M is normal with mean 0: the prediction is too long as often as too short."""
    z, step = np.linspace(-REACH, REACH, nodes, retstep=True)
    weight = np.exp(-z * z / 2) / np.sqrt(2 * np.pi) * step
    return Factor(np.exp(sigma * z), weight, lambda rng, count: rng.lognormal(0.0, sigma, count))
