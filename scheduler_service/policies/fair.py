"""Fair between tenants: whoever was served least lately, over its weight, goes first; then who came first."""

from __future__ import annotations

from scheduler_service.pairing import Lengths
from scheduler_service.policies.ranking import Policy, Ranking
from scheduler_service.view import EngineView
from scheduler_service.work import Work

_TOLERANCE_S = 0.1


def rank(view: EngineView, lengths: Lengths, work: Work, limit: float) -> Ranking:
    """Time of arrival; tenants are told apart by tenths of a second of the engine's service."""
    lately_s = view.tenant_service_s[view.tenant]
    return Ranking.without_preemption(view.arrival_s, (lately_s / _TOLERANCE_S).astype("int64"))


POLICY = Policy("fair", rank, uses_predictions=False, moves=True)
