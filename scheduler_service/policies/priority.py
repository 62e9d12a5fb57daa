"""The client's own priority, lower first as in vLLM; first come, first served among equals."""

from __future__ import annotations

from scheduler_service.pairing import Lengths
from scheduler_service.policies.ranking import Policy, Ranking
from scheduler_service.view import EngineView
from scheduler_service.work import Work


def rank(view: EngineView, lengths: Lengths, work: Work, limit: float) -> Ranking:
    """Time of arrival within the priority."""
    return Ranking.without_preemption(view.arrival_s, view.priority)


POLICY = Policy("priority", rank, uses_predictions=False)
