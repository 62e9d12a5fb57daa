"""Plans whose cost follows what changed: keys of waiting requests are kept, and only the best of them are looked at.

A policy ranks each row by itself (`Policy`), so the keys of rows that nobody wrote to still hold. The plan is then made by
`make_plan` from the running requests and the best of the waiting alone, and is the same as from all of them.
"""

from __future__ import annotations

import numpy as np

from scheduler_service.choice import PolicyChoice
from scheduler_service.following import preemption_limit
from scheduler_service.planner import Plan, PlannerLimits, make_plan, rank
from scheduler_service.policies import POLICIES
from scheduler_service.table import RequestTable
from scheduler_service.view import Bools, EngineView, Floats, Ints


class IncrementalPlanner:
    """Plans for one engine, whose requests are in ``table``."""

    def __init__(self, table: RequestTable, limits: PlannerLimits) -> None:
        self._table = table
        self._limits = limits
        self._basis: tuple[object, ...] = ()
        self._overtaken_before_s = -np.inf

    def plan(self, view: EngineView, choice: PolicyChoice) -> Plan:
        """The same as ``make_plan``; ``view`` is of the table as it is now."""
        self._rank_again(view, choice)
        head = self._head(view)
        rows = np.flatnonzero(view.running) if head is None else np.concatenate([np.flatnonzero(view.running), head])
        return make_plan(view if head is None else view.take(rows), choice, self._limits)

    def _rank_again(self, view: EngineView, choice: PolicyChoice) -> None:
        table = self._table
        stale = np.flatnonzero(self._stale(view, choice))
        if stale.size:
            ranking = rank(view.take(stale), choice, self._limits.unit).ranking
            table.key[stale], table.tier[stale] = ranking.ranks, ranking.tiers
        table.touched[:] = False
        self._overtaken_before_s = view.overtaken_before_s

    def _stale(self, view: EngineView, choice: PolicyChoice) -> Bools:
        """[N]: rows whose key may have changed since the last plan."""
        policy = POLICIES[choice.policy]
        pace = view.step_duration_s, view.prefill_tokens_per_s, view.mean_output_tokens, view.mean_service_s
        basis = (choice, preemption_limit(view, choice), pace)
        if basis != self._basis or policy.moves or choice.fair_share:
            self._basis = basis
            return np.ones(len(view), dtype=np.bool_)
        # A running request's key is made anew with the plan.
        stale = self._table.touched & ~view.running
        if view.overtaken_before_s > self._overtaken_before_s:
            stale |= (view.arrival_s > self._overtaken_before_s) & (view.arrival_s <= view.overtaken_before_s)
        if choice.deadline_slack_s:
            stale |= view.deadline_s > 0
        return stale

    def _head(self, view: EngineView) -> Ints | None:
        """The waiting rows that a plan may name, None: all of them."""
        waiting = np.flatnonzero(~view.running)
        most = self._limits.waiting_head
        if waiting.size <= most:
            return None
        key, tier = self._table.key[waiting], self._table.tier[waiting]
        if tier.any():
            last = np.partition(tier, most - 1)[most - 1]
            before, of_it = np.flatnonzero(tier < last), np.flatnonzero(tier == last)
            best = _least(key[of_it], most - before.size)
            return np.asarray(waiting[np.concatenate([before, of_it[best]])])
        return np.asarray(waiting[_least(key, most)])


def _least(key: Floats, count: int) -> Ints:
    """The ``count`` smallest and all that equal the largest of them: arrival decides between those."""
    if count >= key.size:
        return np.arange(key.size)
    return np.flatnonzero(key <= np.partition(key, count - 1)[count - 1])
