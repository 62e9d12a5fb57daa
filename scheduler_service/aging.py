"""Waiting counts: how ranks in seconds of service give way to the time since arrival.

    none         rank                              starves the long ones in an overload
    linear       rank - wait / T                   T: seconds of waiting that weigh as much as a second of service
    exponential  rank * exp(-wait / T)             T: seconds of waiting in which the service that counts shrinks by e

Exponential aging gives all lengths the same say: ln(rank) + arrival / T orders the same way, so a request is let ahead
of an earlier one only if it is shorter by more than exp(the time between them / T). Between the shortest and the
longest, that is at most T ln(longest / shortest): T spans everything from first come, first served (0) to pure shortest
first (infinite).
At the same mean its tail is shorter than that of linear aging (docs/policies.md). It is the boost of Yu and Scully
("Strongly tail-optimal scheduling in the light-tailed M/G/1", 2024), -ln(1 - exp(-g s)) / g, for short sizes s.

Unless it is told, T is five times the mean service of a request here, so that it fits fast and slow engines alike; for
linear aging, whose T has no unit, 1.5.

No form depends on the time of the plan: the order of two waiting requests stays while nothing new is known of them.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from scheduler_service.view import EngineView, Floats
from scheduler_service.work import Work

Aging = Literal["none", "linear", "exponential"]
AGINGS: tuple[Aging, ...] = ("none", "linear", "exponential")
_MEAN_SERVICES = 5.0
_LINEAR = 1.5
_LEAST = 1e-9


def aged(ranks: Floats, view: EngineView, work: Work, aging: Aging, aging_s: float | None, fair_share: float) -> Floats:
    """[N] what to order by, lower first.

    ``aging_s`` is T. ``fair_share``: seconds by which an arrival counts as later for each second that its tenant was
    served lately.
    """
    if aging == "none" and not fair_share:
        return ranks
    later_s = view.arrival_s + fair_share * view.tenant_service_s[view.tenant]
    if aging == "exponential":
        shrinking_s = _MEAN_SERVICES * view.mean_service_s if aging_s is None else aging_s
        return np.asarray(np.log(np.maximum(ranks, _LEAST)) + later_s / shrinking_s)
    if aging == "linear":
        return np.asarray(ranks + later_s / ((_LINEAR if aging_s is None else aging_s) * work.unit_s))
    return np.asarray(ranks + (later_s - view.arrival_s) / work.unit_s)
