"""The joint distribution of a request's size X and its prediction Y, as the formulas of the queue read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scheduler_service.theory.errors import Factor, perfect
from scheduler_service.theory.sizes import Floats, Sizes

SIZE_NODES = 160
KNOTS = 2400


@dataclass(frozen=True, slots=True, eq=False)
class JointDensity:
    """X beside Y, both in units of time.

    ``size``, ``prediction``, ``weight`` [P]: E[h(X, Y)] = sum_p weight[p] h(size[p], prediction[p]) for continuous h.
    At ``knots`` [K], predictions in ascending order up to the largest:
    ``work`` = E[X; Y <= r], ``work_before`` = E[X; Y < r], ``square`` = E[X**2; Y <= r].
    ``old_square(c)`` [K] is E[(what a request asks of the server while its rank is at most r)**2]:
    x if y <= r, else max(x - min(y - r, c y), 0).
    ``perfected`` is the same sizes with perfect predictions; ``draw`` gives independent (sizes, predictions).
    """

    size: Floats
    prediction: Floats
    weight: Floats
    knots: Floats
    work: Floats
    work_before: Floats
    square: Floats
    old_square: Callable[[float], Floats]
    perfected: Callable[[], JointDensity]
    draw: Callable[[np.random.Generator, int], tuple[Floats, Floats]]

    @property
    def mean_size(self) -> float:
        """E[X]."""
        return float(self.work[-1])

    @property
    def mean_square_size(self) -> float:
        """E[X**2]."""
        return float(self.square[-1])


def scaled(sizes: Sizes, factor: Factor, finer: int = 1) -> JointDensity:
    """Y = M X with M independent of X.

    Given M the point (X, Y) lies on a line, where all that is asked is a partial moment of X; M is integrated
    by its quadrature, and X by the trapezoidal rule in log X, which converges fast for what falls off at both ends.
    ``finer`` times as many nodes and knots show what the quadrature is off by.
    """
    log, step = np.linspace(*sizes.log_span, SIZE_NODES * finer, retstep=True)
    size = np.exp(log)
    weight = sizes.density(size) * size * step
    log_factor = np.log(factor.value)
    knots = np.exp(np.linspace(log[0] + log_factor[0], log[-1] + log_factor[-1], KNOTS * finer))
    below = knots[:, None] / factor.value
    _, work, square = (moment @ factor.weight for moment in sizes.moments_below(below))

    def draw(rng: np.random.Generator, count: int) -> tuple[Floats, Floats]:
        drawn = sizes.draw(rng, count)
        return drawn, drawn * factor.draw(rng, count)

    return JointDensity(
        size=np.repeat(size, factor.value.size),
        prediction=np.outer(size, factor.value).ravel(),
        weight=np.outer(weight, factor.weight).ravel(),
        knots=knots,
        work=work,
        work_before=work,
        square=square,
        old_square=lambda c: _old_square(sizes, factor, knots[:, None], c),
        perfected=lambda: scaled(sizes, perfect(), finer),
        draw=draw,
    )


def _old_square(sizes: Sizes, factor: Factor, r: Floats, c: float) -> Floats:
    """[K] for r [K, 1]. On the line y = m x, x grows through three ranges:

    x <= r / m         y <= r, all of it counts                                x**2
    up to r / (m (1 - c)), or r / (m - 1) where c m >= 1: counts from rank r   (x - m x + r)**2
    beyond             counts from the cut-off                                 max(1 - c m, 0)**2 x**2
    """
    m = factor.value
    with np.errstate(divide="ignore"):
        upper = r * np.where(c * m >= 1, 1 / (m - 1), 1 / (m * (1 - c)))
    at_lower, at_upper = (sizes.moments_below(x) for x in (r / m, upper))
    mass, work, square = (above - below for above, below in zip(at_upper, at_lower, strict=True))
    middle = (1 - m) ** 2 * square + 2 * r * (1 - m) * work + r**2 * mass
    beyond = np.maximum(1 - c * m, 0) ** 2 * (sizes.moments_below(np.array(np.inf))[2] - at_upper[2])
    total: Floats = (at_lower[2] + middle + beyond) @ factor.weight
    return total
