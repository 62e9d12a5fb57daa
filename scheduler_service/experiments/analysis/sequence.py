"""A confidence sequence: an interval after every pair, all of which hold together.

Let d be differences whose signs were drawn by lot around theta, and x = max(-c, min(c, d - theta)), so that no single
pair decides. Its sign is as random, so exp(l x - l^2 x^2 / 2) has a mean of at most 1, for cosh(x) <= exp(x^2 / 2)
(de la Pena, 1999), and so has its product over pairs, mixed over l ~ N(0, 1 / rho):

    M(theta) = sqrt(rho / (rho + V)) exp(S^2 / (2 (rho + V)))      S = sum x, V = sum x^2

It is a supermartingale that ever reaches 1 / alpha with a probability of at most alpha (Ville). The interval is every
theta at which it has not. No variance is estimated and nothing is assumed to be normal: it holds from the first pair
on, and however often one looks. What it holds is the centre, where sum x = 0 (Huber, 1964): the mean, but for outliers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from scheduler_service.experiments.analysis.pairs import Floats

CLIP = 3.0
"""c, in standard deviations of what was expected."""
_HALVINGS = 50
_DOUBLINGS = 60


@dataclass(frozen=True, slots=True)
class Interval:
    """Of the centre of the differences; infinite where the pairs do not suffice yet."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Tuning:
    """`rho` and `clip` (c) say where the sequence is narrowest. It holds whatever they are, as long as they were chosen
    before the pairs were seen."""

    rho: float
    clip: float


def tuned(pairs: float, noise: float, alpha: float) -> Tuning:
    """Narrowest after so many pairs of that standard deviation (Waudby-Smith et al., 2024, appendix B)."""
    log2 = -2 * math.log(alpha)
    return Tuning(pairs * noise**2 / (log2 + math.log(log2) + 1), CLIP * noise)


def log_evidence(total: Floats, squares: Floats, rho: float) -> Floats:
    """log M of sums S and V."""
    found: Floats = total**2 / (2 * (rho + squares)) + np.log(rho / (rho + squares)) / 2
    return found


def evidence_against(theta: float, differences: Floats, tuning: Tuning) -> Floats:
    """[N] log M(theta) after each pair."""
    apart = np.clip(differences - theta, -tuning.clip, tuning.clip)
    return log_evidence(np.cumsum(apart), np.cumsum(apart**2), tuning.rho)


def anytime_p(differences: Floats, tuning: Tuning) -> float:
    """The smallest alpha at which no difference at all has been refuted by now; valid however often one looks."""
    if not len(differences):
        return 1.0
    return float(min(np.exp(-evidence_against(0.0, differences, tuning).max()), 1.0))


def centre(differences: Floats, tuning: Tuning) -> float:
    """Where the clipped differences add up to 0; not a number without pairs."""
    if not len(differences):
        return math.nan
    low, high = float(differences.min()), float(differences.max())
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        above = float(np.clip(differences - middle, -tuning.clip, tuning.clip).sum()) > 0
        low, high = (middle, high) if above else (low, middle)
    return (low + high) / 2


def interval(differences: Floats, alpha: float, tuning: Tuning) -> Interval:
    """After all of the pairs."""
    if not len(differences):
        return Interval(-math.inf, math.inf)
    return Interval(-_edge(-differences, alpha, tuning), _edge(differences, alpha, tuning))


def _edge(differences: Floats, alpha: float, tuning: Tuning) -> float:
    """The first theta above the centre that is refuted: doubling steps away from it, then halving."""
    middle, refuted = centre(differences, tuning), math.log(1 / alpha)

    def holds(theta: float) -> bool:
        apart = np.clip(differences - theta, -tuning.clip, tuning.clip)
        return float(log_evidence(apart.sum(), (apart**2).sum(), tuning.rho)) < refuted

    step = max(tuning.clip / 100, 1e-9)
    for _ in range(_DOUBLINGS):
        if not holds(middle + step):
            break
        step *= 2
    else:
        return math.inf
    low, high = 0.0, step
    for _ in range(_HALVINGS):
        half = (low + high) / 2
        low, high = (half, high) if holds(middle + half) else (low, half)
    return middle + high
