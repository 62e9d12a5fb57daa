"""Waiting counts: how ranks in seconds of service give way to the time since arrival.

    none         rank                                   starves the long ones in an overload
    linear       rank - wait / T                        T: seconds of waiting that weigh as much as one of service
    exponential  (1 - exp(-rank / T)) * exp(-wait / T)  T: seconds of waiting in which service counts e times less

Exponential aging orders by arrival - b(rank) with the boost b(s) = -T ln(1 - exp(-s / T)) of Yu and Scully ("Strongly
tail-optimal scheduling in the light-tailed M/G/1", 2024): a short request is let ahead of a long one that came up to
T ln(T / s) earlier, and those longer than T hardly ahead of each other. T spans everything from first come, first
served (0) to pure shortest first (infinite). At the same mean its tail is shorter than that of linear aging
(docs/policies.md).

Theirs is for known sizes and 1 / T the decay rate of the tail; here it is for the service left, and T, unless it is
told, 5.5 times the mean service of a request here, so that it fits fast and slow engines alike; for linear aging, whose
T has no unit, 1.5.

No form depends on the time of the plan: the order of two waiting requests stays while nothing new is known of them.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from scheduler_service.view import EngineView, Floats
from scheduler_service.work import Work

Aging = Literal["none", "linear", "exponential"]
AGINGS: tuple[Aging, ...] = ("none", "linear", "exponential")
MEAN_SERVICES = 5.5
"""T of exponential aging that nobody set, in mean services."""
_LINEAR = 1.5
_LEAST = 1e-9
_LEAST_T_S = 1e-3


def aged(ranks: Floats, view: EngineView, work: Work, aging: Aging, aging_s: float | None, fair_share: float) -> Floats:
    """[N] what to order by, lower first.

    ``aging_s`` is T. ``fair_share``: seconds by which an arrival counts as later for each second that its tenant was
    served lately.
    """
    if aging == "none" and not fair_share:
        return ranks
    later_s = view.arrival_s + fair_share * view.tenant_service_s[view.tenant]
    if aging == "exponential":
        shrinking_s = max(MEAN_SERVICES * view.mean_service_s, _LEAST_T_S) if aging_s is None else aging_s
        service = np.maximum(ranks, _LEAST) * (work.unit_s / shrinking_s)
        return np.asarray(np.log(-np.expm1(-service)) + later_s / shrinking_s)
    if aging == "linear":
        return np.asarray(ranks + later_s / ((_LINEAR if aging_s is None else aging_s) * work.unit_s))
    return np.asarray(ranks + (later_s - view.arrival_s) / work.unit_s)
