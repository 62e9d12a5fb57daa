"""Least attained service, with aging, for engines without predictions: who has had little may need little more.

Requests begin ahead of all others and fall back as they are served. Waiting lifts them again (`aging`), so that nobody
starves, as in the boost policies for tails (Yu, Scully 2024), with attained in the place of known service.
"""

from __future__ import annotations

from scheduler_service.pairing import Lengths
from scheduler_service.policies.ranking import Policy, Ranking
from scheduler_service.view import EngineView
from scheduler_service.work import Work


def rank(view: EngineView, lengths: Lengths, work: Work, limit: float) -> Ranking:
    """Service had so far, prefill included, and one token more; every running request may lose its place."""
    return Ranking.preemptive(work.attained + work.per_token, view)


POLICY = Policy("boost", rank, uses_predictions=False, preempts=True, ages=True)
