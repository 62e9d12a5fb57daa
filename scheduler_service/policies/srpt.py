"""Shortest remaining processing time, preemptive at any age."""

from __future__ import annotations

import numpy as np

from scheduler_service.pairing import Lengths
from scheduler_service.policies.ranking import NO_GUARD, Policy, Ranking
from scheduler_service.view import EngineView
from scheduler_service.work import Work


def rank(view: EngineView, lengths: Lengths, work: Work, limit: float) -> Ranking:
    """Remaining service; every running request may lose its place."""
    return Ranking(work.remaining, view.running.copy(), np.full(len(view), NO_GUARD, dtype=np.int64))


POLICY = Policy("srpt", rank)
