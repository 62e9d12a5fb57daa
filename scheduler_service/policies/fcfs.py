"""First come, first served: the engine's own order, as the baseline to beat."""

from __future__ import annotations

from scheduler_service.pairing import Lengths
from scheduler_service.policies.ranking import Policy, Ranking
from scheduler_service.view import EngineView
from scheduler_service.work import Work


def rank(view: EngineView, lengths: Lengths, work: Work, limit: float) -> Ranking:
    """Seconds after the oldest living request: small numbers survive the plan's single precision."""
    oldest_s = view.arrival_s.min(initial=float("inf"))
    return Ranking.without_preemption(view.arrival_s - oldest_s)


POLICY = Policy("fcfs", rank, uses_predictions=False)
