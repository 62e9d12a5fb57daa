"""Which running requests should give their place to which waiting ones, and whether that pays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scheduler_service.choice import PolicyChoice
from scheduler_service.policies import Ranking
from scheduler_service.view import Bools, EngineView, Floats, Ints
from scheduler_service.work import Work


@dataclass(frozen=True, slots=True)
class PlannedPreemption:
    """`victim` gives its place to `beneficiary`, but only while it is younger than `only_if_age_below`."""

    victim: int
    only_if_age_below: int
    beneficiary: int


class _Places:
    """Free slots and KV blocks, less the reserve, as they would be after the admissions and preemptions chosen so far.

    Lives for one plan. A capacity that the engine did not tell never runs short.
    """

    def __init__(self, view: EngineView, reserve_blocks: int) -> None:
        slots = view.capacity.max_running_requests
        self._slots = slots - int(view.running.sum()) if slots else None
        self._blocks = view.free_kv_blocks - reserve_blocks if view.capacity.kv_blocks else None
        self._reserve = reserve_blocks
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

    def held_back(self, row: int) -> bool:
        """Whether only the reserve keeps a waiting request out."""
        return (self._slots is None or self._slots > 0) and self._fits(row, self._reserve)

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
    reserve_blocks: int = 0,
) -> tuple[PlannedPreemption, ...]:
    """Walk the waiting requests, best first, and find each a place: a free one, or the victim's that pays most.

    An exchange pays where the victim is expected to have more service before it than the waiting request, by more than
    the margin times what computing the victim's tokens again costs: that time, for every request of the batch, which
    waits for it. It has to have ``preemption_ratio`` times as much too: exchanges of nearly equal requests gain
    nothing, and might be taken back at the next step. Stops at the first waiting request without a place, as the
    engine's own admission does, and at the first that only the reserve keeps out.
    """
    places = _Places(view, reserve_blocks)
    victims = _Victims(view, ranking, work, choice)
    chosen: list[PlannedPreemption] = []
    for row in order[~view.running[order]].tolist():
        if len(chosen) == at_most or not victims:
            break
        if places.admit(row):
            continue
        if places.held_back(row):
            # Memory is kept free so that nobody's work is lost: nobody is to lose it for that.
            break
        victim = victims.most_worth(row, places)
        if victim is None:
            break
        places.exchange(victim, row)
        chosen.append(
            PlannedPreemption(int(view.handle[victim]), int(ranking.guard_age[victim]), int(view.handle[row]))
        )
    return tuple(chosen)


class _Victims:
    """The running requests that may lose their place, by handle, so that of equal gains the first one's is taken."""

    def __init__(self, view: EngineView, ranking: Ranking, work: Work, choice: PolicyChoice) -> None:
        rows = np.flatnonzero(may_be_preempted(view, ranking, choice.max_preemptions))
        self.rows = rows[np.argsort(view.handle[rows])]
        self._gains = (work.expected - _recompute_for_all(view, work, choice.preemption_margin))[self.rows]
        self._remaining, self._ranks = work.remaining[self.rows], ranking.ranks[self.rows]
        self._tiers = ranking.tiers[self.rows]
        self._ranking, self._work, self._ratio = ranking, work, choice.preemption_ratio
        self._left = self.rows.size

    def __bool__(self) -> bool:
        return self._left > 0

    def most_worth(self, row: int, places: _Places) -> int | None:
        """Whose place saves most by going to ``row``, and is not looked at again; None where no exchange pays.

        It has to rank behind ``row``, clearly, and its blocks must make room.
        """
        tier, rank, work = self._ranking.tiers[row], self._ranking.ranks[row], self._work
        behind = (self._tiers > tier) | ((self._tiers == tier) & (self._ranks > rank))
        behind &= self._remaining >= self._ratio * work.remaining[row]
        behind &= places.enough_after(self.rows, row)
        gains = np.where(behind, self._gains, -np.inf)
        best = int(gains.argmax())
        if not gains[best] > work.expected[row]:
            return None
        self._gains[best] = -np.inf
        self._left -= 1
        return int(self.rows[best])


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
    """[N] what a request's return takes of everybody in the batch, who waits while its tokens are computed again."""
    cost: Floats = margin * (work.recompute + work.restart) * view.running.sum()
    return cost


def may_be_preempted(view: EngineView, ranking: Ranking, max_preemptions: int) -> Bools:
    """[N]: runs, the policy allows it, has preemptions left, and progressed since its last one."""
    has_left = view.preemptions < max_preemptions
    progressed = (view.preemptions == 0) | (view.age > view.age_at_preemption)
    may: Bools = view.running & ranking.preemptible & has_left & progressed
    return may
