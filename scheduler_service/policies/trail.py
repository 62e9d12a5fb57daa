"""TRAIL: shortest predicted remaining time with limited preemption (arXiv 2410.01035, section 3.3).

A request whose age reached c * r is never preempted again and goes ahead of all others. c = 0 never preempts,
c = 1 preempts until the predicted end.
"""

from __future__ import annotations

import numpy as np

from scheduler_service.pairing import Lengths
from scheduler_service.policies.ranking import NO_GUARD, Policy, Ranking
from scheduler_service.view import EngineView, Ints
from scheduler_service.work import Work


def cut_off_age(lengths: Lengths, limit: float) -> Ints:
    """ceil(c * r): for whole ages, age < c * r exactly when age < ceil(c * r)."""
    cut_off: Ints = np.minimum(np.ceil(limit * lengths.total), NO_GUARD).astype(np.int64)
    return cut_off


def rank(view: EngineView, lengths: Lengths, work: Work, limit: float) -> Ranking:
    """Remaining service before the cut-off; whoever is past it goes ahead, shortest first among themselves.

    A request that has never run has no age to be past: with c = 0 the waiting ones keep their order. One that
    the engine evicted past its cut-off has, and goes to the front of the queue.
    """
    cut_off = cut_off_age(lengths, limit)
    begun = view.running | (view.age > 0) | (view.preemptions > 0)
    past = begun & (view.age >= cut_off)
    return Ranking(work.remaining, -past.astype(np.int64), view.running & ~past, cut_off)


POLICY = Policy("trail", rank, preempts=True, ages=True)
