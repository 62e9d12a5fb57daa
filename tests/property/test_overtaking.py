"""Nobody is overtaken by much more than the bound says, whatever arrives and whatever is predicted.

An engine of n places gives each of its batch one token a step of d seconds; a plan made after a step is followed in the
next. S(a) is the service that later arrivals have got, in seconds of the whole engine. For a request that waits for its
first token, with the bound B and no request longer than M tokens:

1. From the first plan that finds S >= B on, no later arrival starts ahead of it. At that plan S < B + d.
2. When it starts, S < B + d + (what the later arrivals that were running at that plan had left) <= B + d + M d.
3. All places are taken while it waits, by earlier arrivals or by later ones. Two ways to serve whoever comes, neither
   with a free place while somebody waits, are never further apart than (n - 1) M tokens of work, and first come, first
   served starts it with (n - 1) M tokens of earlier ones left at most. So, if none fails,
   wait < its wait under first come, first served + B + d + M d + 2 M d (n - 1) / n.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from scheduler_service.aging import AGINGS, Aging
from scheduler_service.choice import PolicyChoice
from scheduler_service.incremental import IncrementalPlanner
from scheduler_service.messages import Declaration, Delta, Epoch, Outcome, Predictions, PublishedMessage, Running
from scheduler_service.planner import Plan, PlannerLimits
from scheduler_service.policies import POLICIES
from scheduler_service.state import Assumptions, EngineState
from scheduler_service.view import Capacity, EngineView

EPOCH = Epoch(1, 1)
NOW_S = 1.7e9
STEP_S = 0.5
"""A power of two, as the numbers of places are, so that sums of service are exact."""
PROMPT_TOKENS = 8
LONGEST = 40
PREDICTED = st.sampled_from([0.0, 1.0, 5.0, 60.0, 3000.0])


@dataclass(eq=False)
class Request:
    """A request as the engine knows it, and how it fared."""

    handle: int
    arrival_s: float
    tokens: int
    age: int = 0
    started_s: float | None = None
    later_in_flight_s: float | None = None
    """Service that the later arrivals in flight had left when it was let ahead."""

    @property
    def left(self) -> int:
        return self.tokens - self.age


@dataclass
class SlotEngine:
    """n places; without a choice, first come, first served."""

    places: int
    choice: PolicyChoice | None = None
    limits: PlannerLimits = field(default_factory=PlannerLimits)

    def __post_init__(self) -> None:
        self.now_s, self._step, self._handles = NOW_S, 0, 0
        self.all: list[Request] = []
        self.running: list[Request] = []
        self.waiting: list[Request] = []
        self.state = EngineState(Capacity(self.places))
        self._planner = IncrementalPlanner(self.state.requests, self.limits)
        self._plan: Plan | None = None
        self.view: EngineView | None = None
        self._arrived: list[Request] = []
        self.state.apply(Delta(EPOCH, 0))

    def arrive(self, tokens: int) -> Request:
        self._handles += 1
        request = Request(self._handles, self.now_s, tokens)
        for of in (self.all, self.waiting, self._arrived):
            of.append(request)
        return request

    def predict(self, handle: int, remaining: float) -> None:
        one = np.full(1, remaining)
        rows = Predictions(np.zeros(1, np.int64), np.ones(1, np.int64), one, one, one / 2, one * 2, one, one)
        self.state.apply_predictions(PublishedMessage(EPOCH, 1, np.array([handle], np.uint64), rows))

    def fail(self, request: Request) -> None:
        (self.running if request in self.running else self.waiting).remove(request)
        self._tell(arrived=self._newly_arrived(), finished=(Outcome(request.handle, "abort", request.age),))

    def serve(self) -> list[Request]:
        """One step; returns who entered the batch, in this order."""
        entered = self._admit()
        batch = [(each.handle, each.age) for each in self.running]
        for each in self.running:
            each.age += 1
        ended = [each for each in self.running if not each.left]
        self.running = [each for each in self.running if each.left]
        self.now_s += STEP_S
        handles, ages = np.array(batch, np.int64).reshape(-1, 2).T
        self._tell(
            arrived=self._newly_arrived(),
            running=Running(handles.astype(np.uint64), ages, PROMPT_TOKENS + ages),
            step_duration_s=STEP_S,
            finished=tuple(Outcome(each.handle, "stop", each.age) for each in ended),
        )
        if self.choice is not None:
            self.view = self.state.view(self.now_s, self.choice.overtaking_s)
            self._plan = self._planner.plan(self.view, self.choice)
        return entered

    def later_s(self, requests: list[Request]) -> list[float]:
        """S of each: what those that arrived after it have got, whether they are still there or not."""
        arrivals_s, ages = np.array([(each.arrival_s, each.age) for each in self.all]).reshape(-1, 2).T
        until = np.concatenate([[0.0], np.cumsum(ages)])
        rows = np.searchsorted(arrivals_s, [each.arrival_s for each in requests], side="right")
        later: list[float] = ((until[-1] - until[rows]) * STEP_S / self.places).tolist()
        return later

    def _admit(self) -> list[Request]:
        places = {handle: place for place, handle in enumerate(self._plan.handles.tolist())} if self._plan else {}
        for exchange in self._plan.preemptions if self._plan else ():
            self._exchange(exchange.victim, exchange.beneficiary)
        self.waiting.sort(key=lambda each: (places.get(each.handle, len(places)), each.arrival_s, each.handle))
        free = self.places - len(self.running)
        entered, self.waiting = self.waiting[:free], self.waiting[free:]
        self.running += entered
        for each in entered:
            each.started_s = self.now_s if each.started_s is None else each.started_s
        return entered

    def _exchange(self, victim: int, beneficiary: int) -> None:
        runs = [each for each in self.running if each.handle == victim]
        if runs and len(self.running) == self.places and any(each.handle == beneficiary for each in self.waiting):
            self.running.remove(runs[0])
            self.waiting.append(runs[0])

    def _tell(self, **changes: object) -> None:
        self._step += 1
        self.state.apply(Delta(EPOCH, self._step, **changes))

    def _newly_arrived(self) -> tuple[Declaration, ...]:
        arrived, self._arrived = self._arrived, []
        return tuple(
            Declaration(each.handle, f"r{each.handle}", PROMPT_TOKENS, arrival_s=each.arrival_s) for each in arrived
        )


def most_beyond_first_come_s(bound_s: float, places: int) -> float:
    """What promise 3 allows beyond the wait under first come, first served."""
    return bound_s + STEP_S + LONGEST * STEP_S * (1 + 2 * (places - 1) / places)


class Overtaken(RuleBasedStateMachine):
    """Requests come, fail and are predicted anyhow; the promises are checked at every step."""

    @initialize(
        places=st.sampled_from([1, 2, 4]),
        policy=st.sampled_from(sorted(POLICIES)),
        aging=st.sampled_from(AGINGS),
        bound_s=st.sampled_from([0.5, 3.0, 10.0]),
        waiting_head=st.sampled_from([1, 2, 256]),
        fails=st.booleans(),
    )
    def open(self, places: int, policy: str, aging: Aging, bound_s: float, waiting_head: int, fails: bool) -> None:
        choice = PolicyChoice(
            policy, aging=aging, overtaking_s=bound_s, preemption_ratio=1.0, preemption_margin=0.0, max_preemptions=99
        )
        self.engine = SlotEngine(places, choice, PlannerLimits(waiting_head))
        self.in_order = SlotEngine(places)
        self.bound_s, self.fails, self.failed = bound_s, fails, False
        for tokens in (LONGEST, LONGEST // 2, LONGEST):
            self.arrive([(tokens, 3000.0)] * places)
            self.serve(1, 0)

    @rule(requests=st.lists(st.tuples(st.integers(1, LONGEST), st.none() | PREDICTED), min_size=1, max_size=6))
    def arrive(self, requests: list[tuple[int, float | None]]) -> None:
        for tokens, remaining in requests:
            handle = self.engine.arrive(tokens).handle
            self.in_order.arrive(tokens)
            if remaining is not None:
                self.engine.predict(handle, remaining)

    @rule(which=st.integers(0, 99), remaining=PREDICTED)
    def predict(self, which: int, remaining: float) -> None:
        living = [*self.engine.running, *self.engine.waiting]
        if living:
            self.engine.predict(living[which % len(living)].handle, remaining)

    @precondition(lambda self: self.fails)
    @rule(which=st.integers(0, 99))
    def fail(self, which: int) -> None:
        living = [*self.engine.running, *self.engine.waiting]
        if living:
            self.engine.fail(living[which % len(living)])
            self.failed = True

    @rule(steps=st.integers(1, 20), newcomers=st.integers(0, 2))
    def serve(self, steps: int, newcomers: int) -> None:
        """Newcomers are short, and known to be: more of them come than there are places for."""
        for step in range(steps):
            self.arrive([(1 + step % 2, 1.0)] * newcomers * self.engine.places)
            self.one_step()

    def one_step(self) -> None:
        engine = self.engine
        first = [each for each in engine.waiting if each.later_in_flight_s is not None and not each.age]
        never_ran = [each for each in engine.waiting if each.started_s is None]
        later_s = dict(zip(never_ran, engine.later_s(never_ran), strict=True))
        for entered in engine.serve():
            first = [each for each in first if each is not entered]
            assert not [each for each in first if each.arrival_s < entered.arrival_s]
            if entered in later_s:
                self.check_numbers(entered, later_s[entered])
        self.in_order.serve()
        self.check_moment()

    def check_numbers(self, entered: Request, later_s: float) -> None:
        """Promises 2 and 3, for a request that started when it had been overtaken by ``later_s``."""
        engine, in_flight_s, started_s = self.engine, entered.later_in_flight_s, entered.started_s
        assert started_s is not None
        assert later_s < self.bound_s + (0.0 if in_flight_s is None else STEP_S + in_flight_s)
        if self.failed:
            return
        in_order = self.in_order.all[entered.handle - 1]
        in_order_s = self.engine.now_s if in_order.started_s is None else in_order.started_s
        assert started_s < in_order_s + most_beyond_first_come_s(self.bound_s, engine.places)

    def check_moment(self) -> None:
        """What the scheduler follows is S >= B, counted from scratch."""
        engine = self.engine
        assert engine.view is not None
        for each, later_s in zip(engine.waiting, engine.later_s(engine.waiting), strict=True):
            overtaken = each.arrival_s <= engine.view.overtaken_before_s
            assert overtaken == (later_s >= self.bound_s)
            if overtaken and each.later_in_flight_s is None:
                assert later_s < self.bound_s + STEP_S
                left = [other.left for other in engine.running if other.arrival_s > each.arrival_s]
                each.later_in_flight_s = sum(left) * STEP_S / engine.places


TestOvertaken = Overtaken.TestCase
TestOvertaken.settings = settings(max_examples=30, stateful_step_count=12, deadline=None)


def served_in_a_stream_of_short_ones(steps: int, **choice: object) -> Request:
    """A long request, and from then on short ones that need the whole engine, all of them predicted exactly."""
    engine = SlotEngine(1, PolicyChoice("srpt", **choice), PlannerLimits(waiting_head=4))
    engine.arrive(2)
    long = engine.arrive(LONGEST)
    engine.predict(long.handle, float(LONGEST))
    for _ in range(steps):
        engine.predict(engine.arrive(1).handle, 1.0)
        engine.serve()
    return long


def waited_s(request: Request) -> float:
    assert request.started_s is not None
    return request.started_s - request.arrival_s


def test_without_aging_and_bound_short_requests_starve_a_long_one():
    assert served_in_a_stream_of_short_ones(2000, aging="none", overtaking_s=0.0).started_s is None


@pytest.mark.parametrize("bound_s", [5.0, 50.0])
def test_the_bound_alone_ends_starvation_in_time(bound_s: float):
    long = served_in_a_stream_of_short_ones(300, aging="none", overtaking_s=bound_s, max_preemptions=0)
    # Behind the first request, one step late by the plan, and one short request in flight.
    assert waited_s(long) == pytest.approx(bound_s + 2 * STEP_S, abs=2 * STEP_S)
    assert not long.left


@pytest.mark.parametrize("aging_s", [5.0, 20.0])
def test_exponential_aging_alone_ends_starvation_when_the_boosts_differ_by_the_wait(aging_s: float):
    long = served_in_a_stream_of_short_ones(400, aging="exponential", aging_s=aging_s, overtaking_s=0.0)
    prefill_s = PROMPT_TOKENS / Assumptions().prefill_tokens_per_s
    boosts_s = [-aging_s * math.log(1 - math.exp(-(tokens * STEP_S + prefill_s) / aging_s)) for tokens in (1, LONGEST)]
    assert waited_s(long) == pytest.approx(boosts_s[0] - boosts_s[1], rel=0.1, abs=3 * STEP_S)
