"""Plans whose cost follows what changed: keys of waiting requests are kept, and only the best of them are looked at.

A policy ranks each row by itself (`Policy`), so the keys of rows that nobody wrote to still hold. The plan is then made
by `make_plan` from the running requests and the best of the waiting alone, and is the same as from all of them.
"""

from __future__ import annotations

import numpy as np

from scheduler_service.choice import PolicyChoice
from scheduler_service.following import preemption_limit
from scheduler_service.planner import Plan, PlannerLimits, make_plan, rank
from scheduler_service.policies import POLICIES
from scheduler_service.table import RequestTable
from scheduler_service.view import Bools, EngineView, Floats, Ints

_NEAR, _NEAR_MOST = 3, 12
"""Heads of the queue that are looked at where the cut is made anew, and at most before it is."""


class IncrementalPlanner:
    """Plans for one engine, whose requests are in ``table``."""

    def __init__(self, table: RequestTable, limits: PlannerLimits) -> None:
        self._table = table
        self._limits = limits
        self._basis: tuple[object, ...] = ()
        self._overtaken_before_s = -np.inf
        self._cut = (0, -np.inf)

    def plan(self, view: EngineView, choice: PolicyChoice) -> Plan:
        """The same as ``make_plan``; ``view`` is of the table as it is now."""
        self._rank_again(view, choice)
        head = self._head(view)
        rows = np.flatnonzero(view.running) if head is None else np.concatenate([np.flatnonzero(view.running), head])
        return make_plan(view if head is None else view.take(rows), choice, self._limits)

    def _rank_again(self, view: EngineView, choice: PolicyChoice) -> None:
        table, all_rows = self._table, self._basis_changed(view, choice)
        stale = np.arange(len(view)) if all_rows else np.flatnonzero(self._stale(view, choice))
        if stale.size:
            ranking = rank(view if all_rows else view.take(stale), choice, self._limits.unit).ranking
            table.key[stale], table.tier[stale] = ranking.ranks, ranking.tiers
        table.touched[:] = False
        self._overtaken_before_s = view.overtaken_before_s

    def _basis_changed(self, view: EngineView, choice: PolicyChoice) -> bool:
        """Whether what all keys rest on may be another than at the last plan."""
        before = self._basis
        self._basis = (
            choice, preemption_limit(view, choice), view.step_duration_s, view.prefill_tokens_per_s,
            view.prefill_step_s, view.mean_output_tokens, view.mean_service_s, view.found_again_share,
        )  # fmt: skip
        return self._basis != before or POLICIES[choice.policy].moves or choice.fair_share > 0

    def _stale(self, view: EngineView, choice: PolicyChoice) -> Bools:
        """[N]: rows whose own key may have changed since the last plan."""
        # A running request's key is made anew with the plan.
        stale = self._table.touched & ~view.running
        low_s, high_s = sorted((self._overtaken_before_s, view.overtaken_before_s))
        if low_s < high_s:
            stale |= (view.arrival_s > low_s) & (view.arrival_s <= high_s)
        if choice.deadline_slack_s:
            stale |= view.deadline_s > 0
        return stale

    def _head(self, view: EngineView) -> Ints | None:
        """The waiting rows that a plan may name, None: all of them."""
        table, most = self._table, self._limits.waiting_head
        waiting = ~view.running
        if np.count_nonzero(waiting) <= most:
            return None
        # Those who were among the best lately are nearly all that can be now: few to look at.
        near = np.flatnonzero(waiting & _no_worse(table.tier, table.key, self._cut))
        if not most <= near.size <= _NEAR_MOST * most:
            rows = np.flatnonzero(waiting)
            self._cut = _cut(table.tier[rows], table.key[rows], min(_NEAR * most, rows.size))
            near = np.flatnonzero(waiting & _no_worse(table.tier, table.key, self._cut))
        tiers, keys = table.tier[near], table.key[near]
        return near[_no_worse(tiers, keys, _cut(tiers, keys, most))]


def _cut(tiers: Ints, keys: Floats, count: int) -> tuple[int, float]:
    """Tier and key of the ``count``-th best."""
    tier = int(np.partition(tiers, count - 1)[count - 1])
    left = count - 1 - int(np.count_nonzero(tiers < tier))
    return tier, float(np.partition(keys[tiers == tier], left)[left])


def _no_worse(tiers: Ints, keys: Floats, cut: tuple[int, float]) -> Bools:
    """[N]: better than the cut, or equal to it: arrival decides between those."""
    tier, key = cut
    return np.asarray((tiers < tier) | ((tiers == tier) & (keys <= key)))
