"""The Gittins index of what is known of the remaining length (Gittins 1979; Scully, Harchol-Balter 2018).

    rank = min over d of  E[min(X, d)] / P(X <= d)

the least expected service per expected completion over all amounts d that one could invest. Between the numbers that a
prediction carries (p10, median, p90), X is taken to be uniform; beyond p90 it is exponential with what its mean says.
"""

from __future__ import annotations

import numpy as np

from scheduler_service.pairing import MIN_REMAINING_TOKENS, Lengths
from scheduler_service.policies.ranking import Policy, Ranking
from scheduler_service.view import EngineView, Floats
from scheduler_service.work import Work

MASS = (0.1, 0.4, 0.4)
"""Between 0, p10, median and p90."""
TAIL = 0.1
_LEAST = 1e-9


def rank(view: EngineView, lengths: Lengths, work: Work, limit: float) -> Ranking:
    """Index in the unit of work; prefill still to do comes before any token."""
    ahead = work.remaining - lengths.remaining * work.per_token
    return Ranking.preemptive(ahead + index_tokens(view, lengths) * work.per_token, view)


def index_tokens(view: EngineView, lengths: Lengths) -> Floats:
    """[N] tokens; the expected length where the pairing knows nothing but that.

    Of what was predicted, only what is beyond the tokens made since can still be. A minimum lies at the end of a piece.
    """
    since = np.maximum(view.age - view.predicted_at_age, 0).astype(np.float64)
    start, ends = np.zeros(len(view)), _in_order(view)
    pieces, inside = [], np.zeros(len(view))
    for end, mass in zip(ends, MASS, strict=True):
        inside += mass * (start + end) / 2
        gone = np.clip((since - start) / np.maximum(end - start, _LEAST), 0.0, 1.0)
        pieces.append((np.maximum(end - since, 0.0) - np.maximum(start - since, 0.0), mass * (1 - gone)))
        start = end
    beyond = np.maximum(view.mean - inside - TAIL * start, 0.0)
    alive = sum(mass for _, mass in pieces) + TAIL
    # E[min(X, d)] grows by the width of a piece for those that outlive it, and by half of it for those that do not.
    invested, ended, best = np.zeros(len(view)), np.zeros(len(view)), np.full(len(view), np.inf)
    for width, mass in pieces:
        invested = invested + width * (alive - ended - mass / 2)
        ended = ended + mass
        best = np.minimum(best, np.divide(invested, ended, out=np.full(len(view), np.inf), where=ended > 0))
    best = np.minimum(best, (invested + beyond) / alive)
    return np.where(lengths.posterior, np.maximum(best, MIN_REMAINING_TOKENS), lengths.remaining)


def _in_order(view: EngineView) -> tuple[Floats, Floats, Floats]:
    median = np.maximum(view.p10, view.median)
    return view.p10, median, np.maximum(median, view.p90)


POLICY = Policy("gittins", rank, preempts=True, ages=True)
