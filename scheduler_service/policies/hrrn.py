"""Highest response ratio next (Brinch Hansen 1971): (wait + service) / service; whoever runs stays."""

from __future__ import annotations

import numpy as np

from scheduler_service.pairing import Lengths
from scheduler_service.policies.ranking import Policy, Ranking
from scheduler_service.view import EngineView
from scheduler_service.work import Work


def rank(view: EngineView, lengths: Lengths, work: Work, limit: float) -> Ranking:
    """Less the response ratio."""
    waited = np.maximum(view.now_s - view.arrival_s, 0.0) / work.unit_s
    return Ranking.without_preemption(-(waited + work.total) / work.total)


POLICY = Policy("hrrn", rank, moves=True)
