"""Shortest remaining processing time, preemptive at any age."""

from __future__ import annotations

from scheduler_service.pairing import Lengths
from scheduler_service.policies.ranking import Policy, Ranking
from scheduler_service.view import EngineView
from scheduler_service.work import Work


def rank(view: EngineView, lengths: Lengths, work: Work, limit: float) -> Ranking:
    """Remaining service; every running request may lose its place."""
    return Ranking.preemptive(work.remaining, view)


POLICY = Policy("srpt", rank, preempts=True, ages=True)
