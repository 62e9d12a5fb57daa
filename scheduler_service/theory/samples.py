"""The joint distribution that samples of (size, prediction) stand for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from scheduler_service.theory.joint import JointDensity
from scheduler_service.theory.sizes import Floats


def empirical(size: npt.ArrayLike, prediction: npt.ArrayLike, weight: npt.ArrayLike | None = None) -> JointDensity:
    """Every sample is as likely as its weight says, all alike by default; arrays [N].

    Exact for the samples themselves: among equal predictions the first to arrive is served first.

    Raises:
        ValueError: no samples, unequal lengths, a size that is not positive, a prediction or weight that is negative.
    """
    x, y = (np.asarray(values, dtype=np.float64) for values in (size, prediction))
    w = np.ones(x.shape) if weight is None else np.asarray(weight, dtype=np.float64)
    _check(x, y, w)
    w = w / w.sum()
    knots, place = np.unique(y, return_inverse=True)
    each_work, each_square = (np.bincount(place, w * values, knots.size) for values in (x, x * x))
    work: Floats = np.cumsum(each_work)

    def draw(rng: np.random.Generator, count: int) -> tuple[Floats, Floats]:
        drawn = rng.choice(x.size, count, p=w)
        return x[drawn], y[drawn]

    return JointDensity(
        size=x,
        prediction=y,
        weight=w,
        knots=knots,
        work=work,
        work_before=np.concatenate([[0.0], work[:-1]]),
        square=np.cumsum(each_square),
        old_square=lambda c: _old_square(x, y, w, knots, c),
        perfected=lambda: empirical(x, x, w),
        draw=draw,
    )


def _old_square(x: Floats, y: Floats, w: Floats, knots: Floats, c: float) -> Floats:
    """[K]. As r grows, a sample counts max(x - c y, 0)**2, then from r = y - min(x, c y) on (x - y + r)**2, and from
    r = y on x**2: a parabola in r between breakpoints, so the sum needs only the running sums of its coefficients.
    """
    ahead = x - y
    breaks = np.concatenate([y - np.minimum(x, c * y), y])
    first = np.maximum(x - c * y, 0) ** 2
    one = np.ones_like(x)
    at_first = np.array([ahead**2 - first, 2 * ahead, one])
    at_second = np.array([x**2 - ahead**2, -2 * ahead, -one])
    order = np.argsort(breaks, kind="stable")
    sums = np.cumsum(np.concatenate([w * at_first, w * at_second], axis=1)[:, order], axis=1)
    passed = np.searchsorted(breaks[order], knots, side="right")
    constant, slope, curve = np.concatenate([np.zeros((3, 1)), sums], axis=1)[:, passed]
    total: Floats = w @ first + constant + slope * knots + curve * knots**2
    return total


def _check(x: Floats, y: Floats, w: Floats) -> None:
    if x.ndim != 1 or not x.size or y.shape != x.shape or w.shape != x.shape:
        raise ValueError(
            f"size, prediction and weight must be lists of one length, not {x.shape}, {y.shape}, {w.shape}"
        )
    if not (np.isfinite(x).all() and (x > 0).all()):
        raise ValueError("size must be positive and finite in every sample")
    if not (np.isfinite(y).all() and (y >= 0).all()):
        raise ValueError("prediction must be finite and not negative in every sample")
    if not (np.isfinite(w).all() and (w >= 0).all() and w.sum() > 0):
        raise ValueError("weight must be finite and not negative, and not zero in every sample")
