"""From a view to a plan: whom to serve first and whom to preempt. Same view, same plan."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from scheduler_service.aging import aged
from scheduler_service.choice import PolicyChoice
from scheduler_service.following import preemption_limit
from scheduler_service.gathering import admitted_together
from scheduler_service.pairing import PAIRINGS, Lengths
from scheduler_service.policies import POLICIES, Ranking
from scheduler_service.preemption import PlannedPreemption, choose_preemptions, costliest_to_lose_first
from scheduler_service.promises import kept
from scheduler_service.reserve import reserve_blocks
from scheduler_service.view import EngineView, Floats, Handles, Ints
from scheduler_service.work import Unit, Work, expected_work


@dataclass(frozen=True, slots=True)
class PlannerLimits:
    """What bounds a plan. `waiting_head` best waiting requests are named; the rest keep their order behind.
    `kv_reserve` is the share of a mean answer by which those that run can grow before anybody else is admitted,
    `gathering` how many are admitted in one step, as a share of the number that costs least (0: no waiting for it)."""

    waiting_head: int = 256
    max_preemptions_per_plan: int = 4
    unit: Unit = "seconds"
    kv_reserve: float = 0.2
    gathering: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """An order of M requests, arrays [M], and the preemptions that it asks for: whoever is to be admitted first, or
    evicted last, comes first.

    `ranks` count from 0. `predicted_at_ages` is -1 where a rank rests on no prediction; `fallbacks` counts those for
    which the pairing had to use something else; `preemption_limit` is the c that was used; `reserve_blocks` KV blocks
    stay free when somebody is admitted beside others, and `admit_together` places have come free before anybody is.
    """

    step: int
    policy: str
    handles: Handles
    ranks: Floats
    predicted_at_ages: Ints
    preemptions: tuple[PlannedPreemption, ...]
    fallbacks: int
    preemption_limit: float
    reserve_blocks: int
    admit_together: int


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """A view's ranking and what it rests on, [N]."""

    ranking: Ranking
    lengths: Lengths
    work: Work


def rank(view: EngineView, choice: PolicyChoice, unit: Unit) -> Ranked:
    """The policy's ranking with waiting counted in and promises kept."""
    lengths = PAIRINGS[choice.predictor].lengths(view)
    work = expected_work(view, lengths, unit)
    policy = POLICIES[choice.policy]
    ranking = policy.rank(view, lengths, work, preemption_limit(view, choice))
    if policy.ages:
        ranks = aged(ranking.ranks, view, work, choice.aging, choice.aging_s, choice.fair_share)
        ranking = dataclasses.replace(ranking, ranks=ranks)
    ranking = kept(ranking, view, work, choice.deadline_slack_s)
    if not policy.uses_predictions:
        # Where nothing is predicted, as many tokens are likely to be left as there have been.
        left = work.remaining + (np.maximum(view.age, 1) - lengths.remaining) * work.per_token
        work = dataclasses.replace(work, remaining=left, expected=left)
    return Ranked(ranking, lengths, work)


def best_first(view: EngineView, ranking: Ranking) -> Ints:
    """Rows by tier and rank; who came first wins a tie, and the handle settles what is left."""
    order: Ints = np.lexsort((view.handle, view.arrival_s, ranking.ranks, ranking.tiers))
    return order


def make_plan(view: EngineView, choice: PolicyChoice, limits: PlannerLimits) -> Plan:
    """Rank every request, name all running ones and the head of the waiting, and choose preemptions."""
    ranked = rank(view, choice, limits.unit)
    order = best_first(view, ranked.ranking)
    running = view.running[order]
    rows = order[running | (np.cumsum(~running) <= limits.waiting_head)]
    if POLICIES[choice.policy].preempts and choice.preemption_margin:
        rows = costliest_to_lose_first(view, rows, ranked.ranking, ranked.work, choice.preemption_margin)
    at_most = limits.max_preemptions_per_plan
    reserve = reserve_blocks(view, ranked.work, limits.kv_reserve)
    preemptions = choose_preemptions(view, rows, ranked.ranking, ranked.work, choice, at_most, reserve)
    return Plan(
        step=view.step,
        policy=choice.policy,
        handles=view.handle[rows],
        ranks=np.arange(rows.size, dtype=np.float64),
        predicted_at_ages=ranked.lengths.predicted_at_age[rows],
        preemptions=preemptions,
        reserve_blocks=reserve,
        # Whoever is worth a preemption is not kept waiting.
        admit_together=1 if preemptions else admitted_together(view, limits.gathering),
        fallbacks=int(ranked.lengths.fallback[rows].sum()),
        preemption_limit=preemption_limit(view, choice),
    )
