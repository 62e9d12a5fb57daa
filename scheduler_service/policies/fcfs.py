"""First come, first served: the engine's own order, as the baseline to beat."""

from __future__ import annotations

from scheduler_service.pairing import Lengths
from scheduler_service.policies.ranking import Policy, Ranking
from scheduler_service.view import EngineView
from scheduler_service.work import Work


def rank(view: EngineView, lengths: Lengths, work: Work, limit: float) -> Ranking:
    """Time of arrival."""
    return Ranking.without_preemption(view.arrival_s)


POLICY = Policy("fcfs", rank, uses_predictions=False)
