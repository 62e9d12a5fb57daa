"""Which running requests should give their place to which waiting ones, and whether that pays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scheduler_service.choice import PolicyChoice
from scheduler_service.policies import Ranking
from scheduler_service.view import Bools, EngineView, Floats, Handles, Ints
from scheduler_service.work import Work


@dataclass(frozen=True, slots=True)
class PlannedPreemption:
    """`victim` gives its place to `beneficiary`, but only while it is younger than `only_if_age_below`."""

    victim: int
    only_if_age_below: int
    beneficiary: int


class _Places:
    """Free slots and KV blocks as they would be after the admissions and preemptions chosen so far.

    Lives for one plan. A capacity that the engine did not tell never runs short.
    """

    def __init__(self, view: EngineView) -> None:
        slots = view.capacity.max_running_requests
        self._slots = slots - int(view.running.sum()) if slots else None
        self._blocks = view.free_kv_blocks if view.capacity.kv_blocks else None
        # One token ahead: the first that it generates needs a place as well.
        self._needed = view.kv_blocks_of(view.prompt_tokens + view.age + 1)
        self._held = view.kv_blocks_of(view.held_tokens())

    def admit(self, row: int) -> bool:
        """Take a slot and blocks for a waiting request, if there are any."""
        if (self._slots is not None and self._slots <= 0) or not self._fits(row, 0):
            return False
        if self._slots is not None:
            self._slots -= 1
        self._take(row, 0)
        return True

    def enough_after(self, victims: Ints, row: int) -> Bools:
        """For each victim: whether the blocks it frees make room for the waiting request."""
        if self._blocks is None:
            return np.ones(victims.size, dtype=np.bool_)
        return np.asarray(self._held[victims] + self._blocks >= self._needed[row])

    def exchange(self, victim: int, row: int) -> None:
        """The victim's slot and blocks go to the waiting request."""
        self._take(row, int(self._held[victim]))

    def _fits(self, row: int, freed: int) -> bool:
        return self._blocks is None or self._blocks + freed >= int(self._needed[row])

    def _take(self, row: int, freed: int) -> None:
        if self._blocks is not None:
            self._blocks += freed - int(self._needed[row])


def choose_preemptions(
    view: EngineView,
    order: Ints,
    ranking: Ranking,
    work: Work,
    choice: PolicyChoice,
    at_most: int,
) -> tuple[PlannedPreemption, ...]:
    """Walk the waiting requests, best first, and find each a place: a free one, or the victim's that pays most.

    An exchange pays where the victim is expected to have more service before it than the waiting request, by more than
    the margin times what computing the victim's tokens again costs: that time, for every request of the batch, which
    waits for it. It has to have ``preemption_ratio`` times as much too: exchanges of nearly equal requests gain
    nothing, and might be taken back at the next step. Stops at the first waiting request without a place, as the
    engine's own admission does.
    """
    places = _Places(view)
    victims = np.flatnonzero(may_be_preempted(view, ranking, choice.max_preemptions))
    cost = _recompute_for_all(view, work, choice.preemption_margin)
    chosen: list[PlannedPreemption] = []
    for row in order[~view.running[order]].tolist():
        if len(chosen) == at_most or victims.size == 0:
            break
        if places.admit(row):
            continue
        net = _net_gain(victims, row, ranking, work, cost, choice.preemption_ratio)
        net[~places.enough_after(victims, row)] = -np.inf
        best = _most(net, view.handle[victims])
        if not net[best] > 0:
            break
        victim = int(victims[best])
        places.exchange(victim, row)
        victims = np.delete(victims, best)
        chosen.append(
            PlannedPreemption(int(view.handle[victim]), int(ranking.guard_age[victim]), int(view.handle[row]))
        )
    return tuple(chosen)


def costliest_to_lose_first(view: EngineView, rows: Ints, ranking: Ranking, work: Work, margin: float) -> Ints:
    """``rows`` with the running ones among them reordered, for the engine evicts the last where KV memory runs out.

    Last is whoever has most service left beyond what its recompute costs all others: a long request that has come far
    is dearer to lose than a younger one of the same remaining length. Tiers stay; within them, those that were
    overtaken enough come first.
    """
    places = np.flatnonzero(view.running[rows])
    running = rows[places]
    gain = (work.expected - _recompute_for_all(view, work, margin))[running]
    exposed = view.arrival_s > view.overtaken_before_s
    ordered = rows.copy()
    ordered[places] = running[np.lexsort((view.handle[running], gain, exposed[running], ranking.tiers[running]))]
    return ordered


def _recompute_for_all(view: EngineView, work: Work, margin: float) -> Floats:
    """[N] what computing a request's tokens again takes of everybody in the batch, who waits for it."""
    cost: Floats = margin * work.recompute * view.running.sum()
    return cost


def may_be_preempted(view: EngineView, ranking: Ranking, max_preemptions: int) -> Bools:
    """[N]: runs, the policy allows it, has preemptions left, and progressed since its last one."""
    has_left = view.preemptions < max_preemptions
    progressed = (view.preemptions == 0) | (view.age > view.age_at_preemption)
    may: Bools = view.running & ranking.preemptible & has_left & progressed
    return may


def _net_gain(victims: Ints, row: int, ranking: Ranking, work: Work, cost: Floats, ratio: float) -> Floats:
    """Service saved by serving `row` before each victim, less the cost; -inf where it does not outrank it clearly."""
    net = work.expected[victims] - work.expected[row] - cost[victims]
    clearly = ranking.behind(victims, row) & (work.remaining[victims] >= ratio * work.remaining[row])
    return np.where(clearly, net, -np.inf)


def _most(net: Floats, handles: Handles) -> int:
    """Index of the largest gain; among equal ones the same whatever the order of the rows."""
    return int(np.lexsort((handles, -net))[0])
