"""From a view to a plan: whom to serve first and whom to preempt. Same view, same plan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scheduler_service.choice import PolicyChoice
from scheduler_service.pairing import PAIRINGS, Lengths
from scheduler_service.policies import POLICIES, Ranking
from scheduler_service.preemption import PlannedPreemption, choose_preemptions
from scheduler_service.view import EngineView, Floats, Handles, Ints
from scheduler_service.work import Unit, expected_work


@dataclass(frozen=True, slots=True)
class PlannerLimits:
    """What bounds a plan. `waiting_head` best waiting requests are named; the rest keep their order behind."""

    waiting_head: int = 256
    max_preemptions_per_plan: int = 4
    unit: Unit = "seconds"


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """An order of M requests, best first, arrays [M], and the preemptions that it asks for.

    `predicted_at_ages` is -1 where a rank rests on no prediction; `fallbacks` counts those for which the
    pairing had to use something else.
    """

    step: int
    policy: str
    handles: Handles
    ranks: Floats
    predicted_at_ages: Ints
    preemptions: tuple[PlannedPreemption, ...]
    fallbacks: int


def make_plan(view: EngineView, choice: PolicyChoice, limits: PlannerLimits) -> Plan:
    """Rank every request, name all running ones and the head of the waiting, and choose preemptions."""
    lengths = PAIRINGS[choice.predictor].lengths(view)
    work = expected_work(view, lengths, limits.unit)
    policy = POLICIES[choice.policy]
    ranking = policy.rank(view, lengths, work, choice.preemption_limit)
    order = _best_first(view, ranking)
    running = view.running[order]
    head = order[running | (np.cumsum(~running) <= limits.waiting_head)]
    preemptions = choose_preemptions(view, order, ranking, work, choice, limits.max_preemptions_per_plan)
    return _plan(view, policy.name, ranking, lengths, head, preemptions)


def _best_first(view: EngineView, ranking: Ranking) -> Ints:
    """Rows by rank; who came first wins a tie, and the handle settles what is left."""
    order: Ints = np.lexsort((view.handle, view.arrival_s, ranking.ranks))
    return order


def _plan(
    view: EngineView,
    policy: str,
    ranking: Ranking,
    lengths: Lengths,
    rows: Ints,
    preemptions: tuple[PlannedPreemption, ...],
) -> Plan:
    return Plan(
        step=view.step,
        policy=policy,
        handles=view.handle[rows],
        ranks=ranking.ranks[rows],
        predicted_at_ages=lengths.predicted_at_age[rows],
        preemptions=preemptions,
        fallbacks=int(lengths.fallback[rows].sum()),
    )
