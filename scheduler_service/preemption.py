"""Which running requests should give their place to which waiting ones, and whether that pays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scheduler_service.choice import PolicyChoice
from scheduler_service.exchange import saved_s
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

    An exchange pays where all requests together wait less for it (`exchange`), by more than the margin times what the
    victim's return costs them: the time to compute its tokens again, of everybody who runs or waits. The victim has to
    have ``preemption_ratio`` times the service before it that the waiting request has, too: exchanges of nearly equal
    requests gain nothing, and might be taken back at the next step. With a margin of 0, the paper's rule, any exchange
    pays whose victim has more service before it. Stops at the first waiting request without a place, as the engine's
    own admission does, and at the first that only the reserve keeps out.
    """
    places = _Places(view, reserve_blocks)
    waiting = order[~view.running[order]]
    victims = _Victims(view, ranking, work, choice, waiting)
    chosen: list[PlannedPreemption] = []
    for position, row in enumerate(waiting.tolist()):
        if len(chosen) == at_most or not victims:
            break
        if places.admit(row):
            continue
        if places.held_back(row):
            # Memory is kept free so that nobody's work is lost: nobody is to lose it for that.
            break
        victim = victims.most_worth(row, position, places)
        if victim is None:
            break
        places.exchange(victim, row)
        chosen.append(
            PlannedPreemption(int(view.handle[victim]), int(ranking.guard_age[victim]), int(view.handle[row]))
        )
    return tuple(chosen)


class _Victims:
    """The running requests that may lose their place, by handle, so that of equal gains the first one's is taken."""

    def __init__(self, view: EngineView, ranking: Ranking, work: Work, choice: PolicyChoice, waiting: Ints) -> None:
        rows = np.flatnonzero(may_be_preempted(view, ranking, choice.max_preemptions))
        self.rows = rows[np.argsort(view.handle[rows])]
        self._return = choice.preemption_margin * returning(work)[self.rows]
        self._worth = work.expected[self.rows] - self._return * view.running.sum()
        self._running, self._waiting = np.flatnonzero(view.running), waiting
        self._by_order_alone = choice.preemption_margin == 0
        self._remaining, self._ranks = work.remaining[self.rows], ranking.ranks[self.rows]
        self._tiers = ranking.tiers[self.rows]
        self._ranking, self._work, self._ratio = ranking, work, choice.preemption_ratio
        self._left = self.rows.size

    def __bool__(self) -> bool:
        return self._left > 0

    def most_worth(self, row: int, position: int, places: _Places) -> int | None:
        """Whose place saves most by going to ``row``, at ``position`` of those who wait, and is not looked at again;
        None where no exchange pays.

        It has to rank behind ``row``, clearly, and its blocks must make room.
        """
        tier, rank, work = self._ranking.tiers[row], self._ranking.ranks[row], self._work
        behind = (self._tiers > tier) | ((self._tiers == tier) & (self._ranks > rank))
        behind &= self._remaining >= self._ratio * work.remaining[row]
        behind &= places.enough_after(self.rows, row)
        worth = np.where(behind, self._worth, -np.inf)
        best = int(worth.argmax())
        if not (worth[best] > work.expected[row] and self._pays(best, position)):
            return None
        self._worth[best] = -np.inf
        self._left -= 1
        return int(self.rows[best])

    def _pays(self, victim: int, position: int) -> bool:
        """Whether those who wait, from ``position`` on, save more than the victim and its return cost."""
        if self._by_order_alone:
            return True
        tiers, ranks = self._ranking.tiers[self._waiting], self._ranking.ranks[self._waiting]
        before = (tiers < self._tiers[victim]) | ((tiers == self._tiers[victim]) & (ranks < self._ranks[victim]))
        ahead = self._waiting[position : np.count_nonzero(before)]
        row, expected = self.rows[victim], self._work.expected
        others = np.sort(expected[self._running[self._running != row]])
        saved = saved_s(float(expected[row]), others, ahead.size, float(expected[ahead].mean()))
        return saved > float(self._return[victim]) * (self._running.size + self._waiting.size)


def costliest_to_lose_first(view: EngineView, rows: Ints, ranking: Ranking, work: Work, margin: float) -> Ints:
    """``rows`` with the running ones among them reordered, for the engine evicts the last where KV memory runs out.

    Last is whoever has most service left beyond what its recompute costs all others: a long request that has come far
    is dearer to lose than a younger one of the same remaining length. Tiers stay; within them, those that were
    overtaken enough come first.
    """
    places = np.flatnonzero(view.running[rows])
    running = rows[places]
    gain = (work.expected - margin * returning(work) * view.running.sum())[running]
    exposed = view.arrival_s > view.overtaken_before_s
    ordered = rows.copy()
    ordered[places] = running[np.lexsort((view.handle[running], gain, exposed[running], ranking.tiers[running]))]
    return ordered


def returning(work: Work) -> Floats:
    """[N] what a request's return takes of each place, while its tokens are computed again."""
    return np.asarray(work.recompute + work.restart)


def may_be_preempted(view: EngineView, ranking: Ranking, max_preemptions: int) -> Bools:
    """[N]: runs, the policy allows it, has preemptions left, and progressed since its last one."""
    has_left = view.preemptions < max_preemptions
    progressed = (view.preemptions == 0) | (view.age > view.age_at_preemption)
    may: Bools = view.running & ranking.preemptible & has_left & progressed
    return may
