"""Shortest job first by the whole request's expected service; whoever runs stays."""

from __future__ import annotations

from scheduler_service.pairing import Lengths
from scheduler_service.policies.ranking import Policy, Ranking
from scheduler_service.view import EngineView
from scheduler_service.work import Work


def rank(view: EngineView, lengths: Lengths, work: Work, limit: float) -> Ranking:
    """Prompt and predicted total; neither age nor refinement of the remaining length moves it."""
    return Ranking.without_preemption(work.total)


POLICY = Policy("sjf", rank, ages=True)
