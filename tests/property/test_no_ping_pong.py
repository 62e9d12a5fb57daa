"""Requests do not take places from each other in turns, and they do where what keeps them from it is off.

Two requests could exchange places for ever: A gives its place to B, B's next prediction is longer, B gives it back.

1. Plans take a request's place at most ``max_preemptions`` times.
2. While predictions are within a factor f of the truth, and f**2 < ``preemption_ratio`` = p, no exchange is taken
   back. B was p times shorter than A, and would have to be p times longer: what is known of B may have grown by f**2,
   and what is known of A may have shrunk by as much, for the prediction that its last token gave is yet to come.
   So no two requests exchange places twice before one of them has generated a token.
3. A request generates at least one token between two preemptions.
"""

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_adapter.simulated.step_result import StepResult
from engine_adapter.simulated.step_time import StepTime
from scheduler_service import preemption
from scheduler_service.aging import AGINGS
from scheduler_service.choice import PolicyChoice
from scheduler_service.messages import Declaration, Delta, Epoch, Running
from scheduler_service.planner import PlannerLimits, rank
from scheduler_service.policies import Ranking
from scheduler_service.state import EngineState
from scheduler_service.view import Bools, Capacity, EngineView
from sidecar.cli.simulate.arms import Arm
from sidecar.cli.simulate.planning import Planning
from sidecar.cli.simulate.predictions import Lengths, Paths, spread
from sidecar.cli.simulate.setup import EngineSetup
from sidecar.cli.simulate.simulation import Simulation
from sidecar.cli.simulate.workload import Ints, Workload

FACTOR = 2.0
"""Predictions are off by less, either way, and anew with each token."""
CLEARLY = 1.1 * FACTOR**2
"""A ratio that no such error reaches."""
FREELY = {"preemption_ratio": 1.0, "preemption_margin": 0.0, "max_preemptions": 1000, "overtaking_s": 0.0}
ROOMY, TIGHT = 400, 34
"""KV blocks: no eviction ever, and some."""
PREEMPTIVE = ["srpt", "trail", "gittins", "kv_volume"]


@dataclass(frozen=True)
class Loss:
    """``victim`` lost its place at ``age``; to ``beneficiary``, then of ``other_age``, or to nobody: it was evicted."""

    victim: int
    age: int
    beneficiary: int = 0
    other_age: int = 0


class Watched(Planning):
    """Notes who lost its place to whom, as the engine did it."""

    losses: list[Loss]
    _ages: Counter[int]

    def stepped(self, step: int, result: StepResult, last_duration_s: float, **more: float) -> None:
        if not step:
            self.losses, self._ages = [], Counter()
        plan = self._current
        to = {} if plan is None else dict(zip(plan.victims.tolist(), plan.beneficiaries.tolist(), strict=True))
        for each in result.preempted_by_plan:
            other = to[each.handle]
            self.losses.append(Loss(each.handle, each.age_tokens, other, self._ages[other]))
        self.losses += [Loss(each.handle, each.age_tokens) for each in result.evicted]
        self._ages.update(result.handles[result.made].tolist())
        super().stepped(step, result, last_duration_s, **more)


def nearly(output_tokens: Ints, rng: np.random.Generator) -> Paths:
    """The truth times anything up to ``FACTOR``, or over it."""
    start, request, age = spread(output_tokens)
    total, left = output_tokens.astype(float), (output_tokens[request] - age).astype(float)
    off = [FACTOR ** rng.uniform(-1, 1, of.size) for of in (total, left)]
    return Paths(start, *(Lengths.exact(np.maximum(of * by, 1.0)) for of, by in zip((total, left), off, strict=True)))


def losses(seed: int, kv_blocks: int = ROOMY, requests: int = 40, **choice: object) -> list[Loss]:
    """Of requests that come nearly as fast as three places serve them; prompts take several steps."""
    rng = np.random.default_rng(seed)
    output_tokens = np.clip(np.rint(20 * np.exp(1.2 * rng.standard_normal(requests))), 1, 300).astype(np.int64)
    arrival_s = np.cumsum(rng.exponential(0.3, requests))
    workload = Workload(arrival_s, rng.integers(1, 200, requests), output_tokens)
    setup = EngineSetup(StepTime(0.05, 1e-4, 1e-4, 0.0), 3, kv_blocks, 16, 64, prefix_cache=False)
    arm = Arm("watched", PolicyChoice(**FREELY | {"policy": "srpt"} | choice), PlannerLimits())
    planning = Watched(arm, setup.capacity, nearly(output_tokens, rng), 1, 1)
    Simulation(setup, workload, planning).run()
    return planning.losses


def some_losses(**choice: object) -> list[list[Loss]]:
    return [losses(seed, **choice) for seed in range(10)]


@pytest.fixture(scope="module")
def freely() -> list[list[Loss]]:
    """With nothing that keeps requests from each other's places but the guard of progress."""
    return some_losses()


def most_by_plan(run: list[Loss]) -> int:
    return max(Counter(loss.victim for loss in run if loss.beneficiary).values(), default=0)


def exchanged_twice_at_once(run: list[Loss]) -> int:
    """Exchanges of two requests neither of which has generated a token since their last one."""
    met: dict[frozenset[int], tuple[int, int]] = {}
    twice = 0
    for loss in run:
        if loss.beneficiary:
            pair = frozenset((loss.victim, loss.beneficiary))
            low_first = (loss.age, loss.other_age) if loss.victim < loss.beneficiary else (loss.other_age, loss.age)
            twice += met.get(pair) == low_first
            met[pair] = low_first
    return twice


def taken_back(run: list[Loss]) -> int:
    """Exchanges A for B after B for A, where A never lost another place in between: it was given its own back."""
    last = dict[int, int]()
    back = 0
    for loss in run:
        back += loss.beneficiary > 0 and last.get(loss.beneficiary) == loss.victim
        last[loss.victim] = loss.beneficiary
    return back


def without_progress(run: list[Loss]) -> int:
    """Preemptions by plan of requests that have generated nothing since they last lost their place."""
    of_each: dict[int, list[Loss]] = {}
    for loss in run:
        of_each.setdefault(loss.victim, []).append(loss)
    pairs = [pair for each in of_each.values() for pair in pairwise(each)]
    return sum(later.age <= earlier.age for earlier, later in pairs if later.beneficiary)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    kv_blocks=st.sampled_from([ROOMY, TIGHT]),
    policy=st.sampled_from(PREEMPTIVE),
    aging=st.sampled_from(AGINGS),
    max_preemptions=st.integers(0, 4),
    ratio=st.sampled_from([1.0, CLEARLY, 8.0]),
    margin=st.sampled_from([0.0, 1.0]),
    limit=st.sampled_from([0.5, 1.0]),
    overtaking_s=st.sampled_from([0.0, 2.0]),
)
def test_nobody_is_preempted_too_often_and_no_exchange_is_taken_back(
    seed, kv_blocks, policy, aging, max_preemptions, ratio, margin, limit, overtaking_s
):
    run = losses(
        seed, kv_blocks, 30, policy=policy, aging=aging, max_preemptions=max_preemptions, preemption_ratio=ratio,
        preemption_margin=margin, preemption_limit=limit, overtaking_s=overtaking_s,
    )  # fmt: skip
    assert most_by_plan(run) <= max_preemptions
    assert not without_progress(run)
    if ratio > FACTOR**2:
        assert not taken_back(run)
        assert not exchanged_twice_at_once(run)


def test_without_a_most_requests_are_preempted_again_and_again(freely: list[list[Loss]]):
    assert max(map(most_by_plan, freely)) > 5
    assert max(map(most_by_plan, some_losses(max_preemptions=2))) == 2


def test_without_a_ratio_requests_take_places_from_each_other_in_turns(freely: list[list[Loss]]):
    clearly = some_losses(preemption_ratio=CLEARLY)
    assert sum(map(taken_back, freely)) > 10
    assert sum(map(exchanged_twice_at_once, freely)) > 2
    assert sum(map(taken_back, clearly)) == sum(map(exchanged_twice_at_once, clearly)) == 0
    assert min(map(most_by_plan, clearly)) > 0


def whether_it_progressed_or_not(view: EngineView, ranking: Ranking, max_preemptions: int) -> Bools:
    return np.asarray(view.running & ranking.preemptible & (view.preemptions < max_preemptions))


def test_without_the_guard_requests_lose_their_place_before_they_made_progress(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preemption, "may_be_preempted", whether_it_progressed_or_not)
    assert sum(map(without_progress, some_losses())) > 5


@pytest.mark.parametrize("kv_blocks", [ROOMY, TIGHT])
def test_everybody_makes_progress_between_two_preemptions(kv_blocks: int):
    runs = some_losses(kv_blocks=kv_blocks)
    assert min(map(most_by_plan, runs)) > 2
    assert sum(map(without_progress, runs)) == 0


def test_no_two_requests_exchange_places_twice_before_either_made_progress():
    assert not exchanged_twice_at_once(
        losses(4015, requests=30, aging="none", max_preemptions=4, preemption_ratio=CLEARLY, overtaking_s=2.0)
    )


def preemptible(state: EngineState) -> bool:
    view = state.view()
    ranking = rank(view, PolicyChoice("srpt"), "seconds").ranking
    return bool(preemption.may_be_preempted(view, ranking, max_preemptions=9)[0])


def test_a_token_made_before_a_preemption_is_no_progress_after_it():
    state = EngineState(Capacity(1))
    state.apply(Delta(Epoch(1, 1), 0, arrived=(Declaration(1, "a", 10), Declaration(2, "b", 10))))

    def step(number: int, handle: int, age: int, computed: int, preempted: tuple[int, ...] = ()) -> None:
        """As the engine tells it: the batch as it goes in."""
        batch = Running(np.array([handle], np.uint64), np.array([age]), np.array([computed]))
        state.apply(Delta(Epoch(1, 1), number, running=batch, preempted=preempted))

    step(1, handle=1, age=4, computed=13)
    assert preemptible(state)
    # The step that was just told made its fifth token.
    step(2, handle=2, age=0, computed=0, preempted=(1,))
    step(3, handle=1, age=5, computed=0, preempted=(2,))
    assert not preemptible(state)
    step(4, handle=1, age=6, computed=15)
    assert preemptible(state)
