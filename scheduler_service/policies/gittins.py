"""The Gittins index of what is known of the remaining length (Gittins 1979; Scully, Harchol-Balter 2018).

    rank = min over d of  E[min(X, d)] / P(X <= d)

the least expected service per expected completion over all amounts d that one could invest. Between the numbers that a
prediction carries (p10, median, p90), X is taken to be uniform; beyond p90 it is exponential with what its mean says.
"""

from __future__ import annotations

import numpy as np

from scheduler_service.pairing import Lengths
from scheduler_service.policies.ranking import Policy, Ranking
from scheduler_service.view import EngineView, Floats
from scheduler_service.work import Work

MASS = np.array([0.1, 0.4, 0.4])
"""Between 0, p10, median and p90."""


def rank(view: EngineView, lengths: Lengths, work: Work, limit: float) -> Ranking:
    """Index in the unit of work; prefill still to do comes before any token."""
    ahead = work.remaining - lengths.remaining * work.per_token
    return Ranking.preemptive(ahead + index_tokens(view, lengths) * work.per_token, view)


def index_tokens(view: EngineView, lengths: Lengths) -> Floats:
    """[N] tokens; the expected length where nothing is known but that."""
    since = np.maximum(view.age - view.predicted_at_age, 0)
    known = (view.predicted_at_age >= 0) & ~lengths.fallback & (lengths.predicted_at_age == view.predicted_at_age)
    points = np.stack([np.maximum(each - since, 0.0) for each in (view.p10, view.median, view.p90)], axis=1)
    points = np.maximum.accumulate(points, axis=1)
    starts = np.concatenate([np.zeros((len(view), 1)), points[:, :2]], axis=1)
    alive = 1 - np.concatenate([[0.0], np.cumsum(MASS)[:-1]])
    # E[min(X, d)] grows by the width of a piece for those that outlive it, and by half of it for those that do not.
    invested = np.cumsum((points - starts) * (alive - MASS / 2), axis=1)
    candidates = invested / np.cumsum(MASS)
    # Until the end: the expected length.
    inside = ((points + starts) / 2) @ MASS
    tail = np.maximum(np.maximum(view.mean - since, 0.0) - inside, 0.1 * points[:, 2])
    best = np.minimum(candidates.min(axis=1), inside + tail)
    return np.where(known, np.maximum(best, 1.0), lengths.remaining)


POLICY = Policy("gittins", rank, ages=True)
