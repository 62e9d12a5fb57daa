"""Who goes ahead whatever its rank: deadlines at risk, and requests that were overtaken as much as may be."""

from __future__ import annotations

import dataclasses

import numpy as np

from scheduler_service.policies import Ranking
from scheduler_service.view import Bools, EngineView
from scheduler_service.work import Work

AT_RISK, OVERTAKEN = -(2**40), -(2**41)
"""Tiers before those of any policy."""


def kept(ranking: Ranking, view: EngineView, work: Work, deadline_slack_s: float) -> Ranking:
    """The ranking with those ahead whose promise would break: earliest deadline, and first come, first. Those that run
    keep their place."""
    at_risk, enough = deadlines_at_risk(view, work, deadline_slack_s), overtaken_enough(view)
    if not (at_risk.any() or enough.any()):
        return ranking
    overtaken = enough & ~view.running
    tiers = np.where(overtaken, OVERTAKEN, np.where(at_risk, AT_RISK, ranking.tiers))
    ranks = np.where(overtaken, view.arrival_s, np.where(at_risk, view.deadline_s, ranking.ranks))
    return dataclasses.replace(ranking, ranks=ranks, tiers=tiers, preemptible=ranking.preemptible & ~at_risk & ~enough)


def deadlines_at_risk(view: EngineView, work: Work, slack_s: float) -> Bools:
    """[N]: has a deadline that it can just still meet: less than ``slack_s`` to spare. 0: deadlines count for nothing.

    One that cannot be met any more has no claim: it would take others' with it.
    """
    if slack_s <= 0:
        return np.zeros(len(view), dtype=np.bool_)
    spare_s = view.deadline_s - view.now_s - work.duration_s
    return np.asarray((view.deadline_s > 0) & (spare_s >= 0) & (spare_s < slack_s))


def overtaken_enough(view: EngineView) -> Bools:
    """[N]: later arrivals have had as much service as the bound of overtaking allows."""
    return np.asarray(view.arrival_s <= view.overtaken_before_s)
