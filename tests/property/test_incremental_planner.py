"""A planner that keeps keys plans as one that ranks everybody each time, whatever happens to the engine."""

from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from scheduler_service.aging import AGINGS, Aging
from scheduler_service.choice import PolicyChoice
from scheduler_service.incremental import IncrementalPlanner
from scheduler_service.messages import Declaration, Delta, Epoch, Outcome, Predictions, PublishedMessage, Running
from scheduler_service.pairing import PAIRINGS
from scheduler_service.planner import Plan, PlannerLimits, make_plan
from scheduler_service.policies import POLICIES
from scheduler_service.state import EngineState
from scheduler_service.table import RequestTable
from scheduler_service.view import ROW, Capacity, EngineView
from tests.unit.scheduler_service.views import view_of, waiting

EPOCH = Epoch(1, 1)

CHOICES = st.builds(
    PolicyChoice,
    policy=st.sampled_from(sorted(POLICIES)),
    predictor=st.sampled_from(sorted(PAIRINGS)),
    preemption_limit=st.sampled_from([0.5, 1.0]),
    preemption_margin=st.sampled_from([0.0, 1.0]),
    max_preemptions=st.integers(0, 3),
    aging=st.sampled_from(AGINGS),
    aging_s=st.sampled_from([None, 0.1, 7.0]),
    overtaking_s=st.sampled_from([0.0, 0.05, 1.0]),
    preemption_ratio=st.sampled_from([1.0, 4.0]),
    least_preemption_limit=st.sampled_from([None, 0.1]),
    deadline_slack_s=st.sampled_from([0.0, 1.0]),
    fair_share=st.sampled_from([0.0, 0.5]),
)
LIMITS = st.builds(
    PlannerLimits, st.integers(1, 6), st.integers(0, 4), st.sampled_from(["seconds", "tokens"])
)  # fmt: skip
CAPACITIES = st.builds(Capacity, st.integers(0, 6), st.sampled_from([0, 40]), st.just(16), st.just(64))
PLACES = st.integers(0, 1000)
LENGTHS = st.integers(0, 400).map(float)


@dataclass(frozen=True)
class Event:
    """What the engine or the predictor said at a moment, and the policy that was chosen then."""

    said: Delta | PublishedMessage | None
    choice: PolicyChoice
    now_s: float


class Planned:
    """State and planner of one engine, to which a history happens."""

    def __init__(self, capacity: Capacity, limits: PlannerLimits) -> None:
        self.state = EngineState(capacity, tenant_weights={"b": 3.0})
        self._planner = IncrementalPlanner(self.state.requests, limits)
        self._limits = limits

    def after(self, event: Event) -> tuple[Plan, Plan]:
        """The plan after an event, and the one that looks at everybody."""
        if isinstance(event.said, Delta):
            self.state.apply(event.said)
        elif event.said is not None:
            self.state.apply_predictions(event.said)
        view = self.state.view(event.now_s, event.choice.overtaking_s)
        return self._planner.plan(view, event.choice), make_plan(view, event.choice, self._limits)


def told(plan: Plan) -> tuple[object, ...]:
    """Everything that a plan tells."""
    return (
        plan.step, plan.policy, plan.handles.tolist(), plan.ranks.tolist(), plan.predicted_at_ages.tolist(),
        plan.preemptions, plan.fallbacks, plan.preemption_limit,
    )  # fmt: skip


def in_other_rows(event: Event) -> Event:
    """The same event, with requests that arrived together declared in another order."""
    if isinstance(event.said, Delta):
        return replace(event, said=replace(event.said, arrived=event.said.arrived[::-1]))
    return event


class Histories(RuleBasedStateMachine):
    """Arrivals, predictions, steps, preemptions, ends and policies in any order; a plan after each."""

    @initialize(capacity=CAPACITIES, limits=LIMITS, choice=CHOICES)
    def open(self, capacity: Capacity, limits: PlannerLimits, choice: PolicyChoice) -> None:
        self.capacity, self.limits, self.choice = capacity, limits, choice
        self.planned = Planned(capacity, limits)
        self.now_s, self.step, self.handles = 1.7e9, 0, 0
        self.log: list[tuple[Event, tuple[object, ...]]] = []
        self.replayed = False
        self.arrive([(0, 10, 0, "", 0, 50)] * 6)
        self.predict(list(range(6)), (10.0, 300.0, 350.0, 200.0))
        self.run_batch(list(range(4)), 1, 20, 0.02, 20)

    def happens(self, said: Delta | PublishedMessage | None) -> None:
        event = Event(said, self.choice, self.now_s)
        quick, whole = self.planned.after(event)
        assert told(quick) == told(whole)
        self.log.append((event, told(quick)))

    def delta(self, **more: object) -> Delta:
        self.step += 1
        return Delta(EPOCH, self.step, **{"free_kv_blocks": self.planned.state.free_kv_blocks} | more)

    @property
    def living(self) -> list[int]:
        return sorted(self.planned.state.requests.rows["handle"].tolist())

    def picked(self, places: list[int]) -> list[int]:
        """Living requests, each once."""
        living = self.living
        return list(dict.fromkeys(living[place % len(living)] for place in places)) if living else []

    @rule(
        requests=st.lists(
            st.tuples(
                st.integers(0, 3), st.integers(1, 300), st.integers(-1, 1), st.sampled_from(["", "a", "b"]),
                st.sampled_from([0, 1, 3]), st.integers(0, 200),
            ),
            min_size=1, max_size=6,
        )
    )  # fmt: skip
    def arrive(self, requests: list[tuple[int, int, int, str, int, int]]) -> None:
        arrived = []
        for late, prompt_tokens, priority, tenant, due_s, output_tokens in requests:
            self.handles += 1
            arrived.append(
                Declaration(
                    self.handles, f"r{self.handles}", prompt_tokens, arrival_s=self.now_s - late / 10,
                    priority=priority, tenant=tenant, deadline_s=self.now_s + due_s if due_s else 0.0,
                    declared_output_tokens=output_tokens,
                )
            )  # fmt: skip
        self.happens(self.delta(arrived=tuple(arrived)))

    @rule(places=st.lists(PLACES, min_size=1, max_size=8), lengths=st.tuples(LENGTHS, LENGTHS, LENGTHS, LENGTHS))
    def predict(self, places: list[int], lengths: tuple[float, ...]) -> None:
        handles, table = self.picked(places), self.planned.state.requests
        ages = np.array([table.rows["age"][table.row(handle)] for handle in handles], np.int64)
        p10, median, p90, mean = ((length + np.arange(len(handles)) * 7) % 400 for length in (*lengths,))
        stages = np.full(len(handles), 3)
        rows = Predictions(ages, stages, mean, median, p10, p90, median + ages, median + ages)
        self.happens(PublishedMessage(EPOCH, 1, np.array(handles, np.uint64), rows))

    @rule(
        places=st.lists(PLACES, max_size=6),
        tokens=st.sampled_from([0, 1, 50]),
        chunk=st.sampled_from([1, 40]),
        duration_s=st.sampled_from([0.0, 0.02, 0.03, 0.3]),
        free_kv_blocks=st.integers(0, 40),
    )
    def run_batch(
        self, places: list[int], tokens: int, chunk: int, duration_s: float, free_kv_blocks: int
    ) -> None:  # fmt: skip
        handles, table = self.picked(places), self.planned.state.requests
        rows = table.rows_of(handles)
        running = Running(
            np.array(handles, np.uint64), table.rows["age"][rows] + tokens, table.rows["computed_tokens"][rows] + chunk
        )
        self.now_s += duration_s
        self.happens(self.delta(running=running, step_duration_s=duration_s, free_kv_blocks=free_kv_blocks))

    @rule(places=st.lists(PLACES, min_size=1, max_size=2))
    def preempt(self, places: list[int]) -> None:
        table = self.planned.state.requests
        runs = [handle for handle in self.picked(places) if table.rows["running"][table.row(handle)]]
        self.happens(self.delta(preempted=tuple(runs)))

    @rule(places=st.lists(PLACES, min_size=1, max_size=3), reason=st.sampled_from(["stop", "abort"]))
    def finish(self, places: list[int], reason: str) -> None:
        table = self.planned.state.requests
        ended = [(handle, int(table.rows["age"][table.row(handle)])) for handle in self.picked(places)]
        self.happens(self.delta(finished=tuple(Outcome(handle, reason, age) for handle, age in ended)))

    @rule(choice=CHOICES)
    def choose(self, choice: PolicyChoice) -> None:
        self.choice = choice
        self.happens(None)

    @rule(seconds=st.sampled_from([0.1, 1.0, 2.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.happens(None)

    @precondition(lambda self: len(self.log) > 15 and not self.replayed)
    @rule()
    def replay(self) -> None:
        """Plans of the same log are the same, wherever in memory its requests lie."""
        again = Planned(self.capacity, self.limits)
        for event, before in self.log:
            quick, _ = again.after(in_other_rows(event))
            assert told(quick) == before
        self.replayed = True


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


class Queue:
    """Many waiting requests, and several things at once between two plans: those that keys lie by change their rows."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.now_s, self.step, self.handles = 1.7e9, 0, 0
        self.planned = Planned(Capacity(4, 100, 16, 512), PlannerLimits(waiting_head=5))

    def arrived(self, count: int) -> tuple[Declaration, ...]:
        first, self.handles = self.handles + 1, self.handles + count
        return tuple(
            Declaration(
                handle, f"r{handle}", int(self.rng.integers(1, 900)), arrival_s=self.now_s - self.rng.random(),
                deadline_s=self.now_s + 5 * self.rng.random() if self.rng.random() < 0.1 else 0.0,
                tenant=str(handle % 3), priority=handle % 2,
            )
            for handle in range(first, first + count)
        )  # fmt: skip

    def some(self, count: int) -> list[int]:
        living = sorted(self.planned.state.requests.rows["handle"].tolist())
        return self.rng.choice(living, min(count, len(living)), replace=False).tolist()

    def predicted(self, count: int) -> PublishedMessage:
        handles = np.array(self.some(count), np.uint64)
        lengths, zeros = self.rng.integers(1, 300, handles.size).astype(float), np.zeros(handles.size, np.int64)
        rows = Predictions(zeros, zeros + 1, lengths, lengths, lengths / 2, 2 * lengths, lengths, 0.0 * lengths)
        return PublishedMessage(EPOCH, 1, handles, rows)

    def goes_on(self) -> Delta:
        self.step, self.now_s = self.step + 1, self.now_s + 0.5
        batch = np.array(self.some(4), np.uint64)
        ages = self.rng.integers(1, 100, batch.size)
        leaving = [handle for handle in self.some(4) if handle not in batch]
        return Delta(
            EPOCH, self.step, 0.5, self.arrived(3), Running(batch, ages, ages + 5),
            finished=tuple(Outcome(handle, "stop", 100) for handle in leaving), free_kv_blocks=50,
        )  # fmt: skip


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("aging", AGINGS)
def test_a_long_queue_is_planned_as_if_everybody_were_ranked(policy: str, aging: Aging) -> None:
    queue = Queue(AGINGS.index(aging))
    queue.planned.state.apply(Delta(EPOCH, 0, arrived=queue.arrived(60)))
    choice = PolicyChoice(policy, aging=aging, aging_s=3.0, overtaking_s=9.0)
    choices = [choice, replace(choice, deadline_slack_s=2.0), replace(choice, fair_share=0.3)]
    for index in range(45):
        queue.planned.state.apply_predictions(queue.predicted(10))
        queue.planned.state.apply(queue.goes_on())
        quick, whole = queue.planned.after(Event(queue.predicted(3), choices[index // 15], queue.now_s))
        assert told(quick) == told(whole)


FIGURES = {
    "step_duration_s": 2.0,
    "prefill_tokens_per_s": 100.0,
    "prefill_step_s": 0.5,
    "mean_output_tokens": 2.0,
    "mean_service_s": 1e-3,
    "free_kv_blocks": 0,
    "step": 9,
    "now_s": 1000.0,
    "overtaken_before_s": 980.0,
    "tenant_service_s": np.array([3.0, 0.0, 9.0]),
    "recompute_share": 0.2,
    "found_again_share": 0.7,
}
"""Every figure of the engine that a view tells beside its rows, and another value of it."""


def crowd(rng: np.random.Generator) -> EngineView:
    """Many waiting requests, half of them without a prediction, and some that run."""
    rows = [
        {
            "arrival_s": 960 + 30 * rng.random(),
            "deadline_s": 1000 + 20 * rng.random() if rng.random() < 0.2 else 0.0,
            "tenant": rng.integers(3),
            "prompt_tokens": rng.integers(1, 3000),
            "age": rng.integers(9),
            "preemptions": rng.integers(2),
            "running": index < 4,
        }
        | (waiting(rng.integers(1, 900)) if rng.random() < 0.5 else {})
        for index in range(60)
    ]
    return view_of(
        *rows, capacity=Capacity(5, 100, 16, 512), free_kv_blocks=90, now_s=990.0, mean_service_s=40.0,
        tenant_service_s=np.array([0.0, 2.0, 4.0]),
    )  # fmt: skip


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("figure", FIGURES)
def test_keys_are_made_anew_when_a_figure_of_the_engine_that_they_rest_on_changes(policy: str, figure: str) -> None:
    for seed, aging in enumerate(AGINGS):
        view, limits = crowd(np.random.default_rng(seed)), PlannerLimits(waiting_head=6)
        choice = PolicyChoice(
            policy,
            aging=aging,
            least_preemption_limit=0.0,
            deadline_slack_s=5.0,
            fair_share=0.5 * (figure == "tenant_service_s"),
        )
        table = RequestTable()
        for handle in view.handle.tolist():
            table.add(Declaration(handle, f"r{handle}"))
        planner = IncrementalPlanner(table, limits)
        for each in (view, replace(view, **{figure: FIGURES[figure]}), view):
            assert told(planner.plan(each, choice)) == told(make_plan(each, choice, limits))


def test_every_figure_of_the_engine_is_among_those_that_are_changed() -> None:
    assert {field.name for field in fields(EngineView)} - set(ROW.names or ()) - {"capacity"} == set(FIGURES)
