"""What holds for every policy and every plan, whatever the view."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler_service.choice import PolicyChoice
from scheduler_service.pairing import PAIRINGS
from scheduler_service.planner import Plan, PlannerLimits, make_plan
from scheduler_service.policies import POLICIES
from scheduler_service.view import Capacity, EngineView
from scheduler_service.work import expected_work
from tests.unit.scheduler_service.views import view_of

tokens = st.integers(0, 5000)
lengths = st.floats(0, 5000, allow_nan=False)


@st.composite
def requests(draw: st.DrawFn) -> dict[str, object]:
    age = draw(st.one_of(st.just(0), tokens))
    predicted = draw(st.booleans())
    preemptions = draw(st.integers(0, 4))
    return {
        "running": draw(st.booleans()),
        "age": age,
        "prompt_tokens": draw(st.integers(1, 2000)),
        "computed_tokens": draw(tokens),
        "arrival_s": draw(st.floats(1.7e9, 1.7e9 + 100)),
        "declared_output_tokens": draw(tokens),
        "r0": draw(lengths),
        "r1": draw(st.one_of(st.just(0.0), lengths)),
        "borrowed_r": draw(st.one_of(st.just(0.0), lengths)),
        "mean": draw(lengths) if predicted else 0.0,
        "predicted_at_age": draw(st.integers(0, age)) if predicted else -1,
        "preemptions": preemptions,
        "age_at_preemption": draw(st.integers(0, age)) if preemptions else -1,
    }


@st.composite
def views(draw: st.DrawFn) -> EngineView:
    rows = draw(st.lists(requests(), min_size=1, max_size=24))
    slots = draw(st.integers(0, 12))
    blocks = draw(st.sampled_from([0, 100]))
    return view_of(
        *rows,
        capacity=Capacity(slots, blocks, 16, 2048),
        free_kv_blocks=draw(st.integers(0, 100)),
        step_duration_s=draw(st.floats(0.001, 0.2)),
        prefill_tokens_per_s=draw(st.floats(100, 50_000)),
        step=7,
    )


choices = st.builds(
    PolicyChoice,
    policy=st.sampled_from(sorted(POLICIES)),
    predictor=st.sampled_from(sorted(PAIRINGS)),
    preemption_limit=st.floats(0, 1),
    preemption_margin=st.floats(0, 3),
    max_preemptions=st.integers(0, 4),
)
limits = st.builds(
    PlannerLimits,
    waiting_head=st.integers(1, 30),
    max_preemptions_per_plan=st.integers(0, 6),
    unit=st.sampled_from(["seconds", "tokens"]),
)


def same(one: Plan, other: Plan) -> bool:
    return (
        one.handles.tolist() == other.handles.tolist()
        and one.ranks.tolist() == other.ranks.tolist()
        and one.preemptions == other.preemptions
    )


@given(views(), choices, limits, st.randoms())
@settings(deadline=None)
def test_the_order_of_the_rows_changes_neither_ranks_nor_plan(view, choice, bounds, random):
    rows = list(range(len(view)))
    random.shuffle(rows)
    assert same(make_plan(view, choice, bounds), make_plan(view.take(np.array(rows)), choice, bounds))


@given(views(), choices, limits)
@settings(deadline=None)
def test_the_same_view_gives_the_same_plan_and_is_left_as_it_was(view, choice, bounds):
    before = {name: getattr(view, name).copy() for name in ("age", "mean", "r1", "running")}
    assert same(make_plan(view, choice, bounds), make_plan(view, choice, bounds))
    assert all((getattr(view, name) == values).all() for name, values in before.items())


@given(views(), choices, limits)
@settings(deadline=None)
def test_a_plan_names_no_request_twice_and_every_running_one(view, choice, bounds):
    plan = make_plan(view, choice, bounds)
    named = plan.handles.tolist()
    waiting = [handle for handle in named if handle not in view.handle[view.running].tolist()]
    assert len(named) == len(set(named))
    assert set(view.handle[view.running].tolist()) <= set(named)
    assert len(waiting) == min(bounds.waiting_head, int((~view.running).sum()))
    assert np.isfinite(plan.ranks).all()
    assert (np.diff(plan.ranks) >= 0).all()


@given(views(), choices, limits)
@settings(deadline=None)
def test_each_preemption_takes_a_runner_for_a_waiting_request_of_its_own(view, choice, bounds):
    plan = make_plan(view, choice, bounds)
    running = set(view.handle[view.running].tolist())
    waiting = set(view.handle[~view.running].tolist())
    roles = Counter([p.victim for p in plan.preemptions] + [p.beneficiary for p in plan.preemptions])
    assert all(p.victim in running and p.beneficiary in waiting for p in plan.preemptions)
    assert set(roles.values()) <= {1}
    assert len(plan.preemptions) <= bounds.max_preemptions_per_plan


@given(views(), choices, limits)
@settings(deadline=None)
def test_preemption_pays_by_the_margin_and_spares_those_that_had_their_share(view, choice, bounds):
    plan = make_plan(view, choice, bounds)
    work = expected_work(view, PAIRINGS[choice.predictor].lengths(view), bounds.unit)
    left = work.expected if POLICIES[choice.policy].uses_predictions else work.attained
    row = {handle: index for index, handle in enumerate(view.handle.tolist())}
    for preemption in plan.preemptions:
        victim, other = row[preemption.victim], row[preemption.beneficiary]
        gain = left[victim] - left[other]
        assert gain > choice.preemption_margin * work.recompute[victim] * view.running.sum()
        assert view.preemptions[victim] < choice.max_preemptions
        assert view.preemptions[victim] == 0 or view.age[victim] > view.age_at_preemption[victim]
        assert view.age[victim] < preemption.only_if_age_below


@given(views(), st.sampled_from(sorted(PAIRINGS)), st.floats(0, 1), limits)
@settings(deadline=None)
def test_trail_guards_with_the_cut_off_and_never_takes_a_request_past_it(view, predictor, limit, bounds):
    choice = PolicyChoice("trail", predictor, limit, 0.0, 100)
    totals = PAIRINGS[predictor].lengths(view).total
    row = {handle: index for index, handle in enumerate(view.handle.tolist())}
    for preemption in make_plan(view, choice, bounds).preemptions:
        victim = row[preemption.victim]
        assert preemption.only_if_age_below == math.ceil(limit * totals[victim])
        assert view.age[victim] < limit * totals[victim]


@given(views(), st.sampled_from(sorted(PAIRINGS)), limits)
@settings(deadline=None)
def test_trail_with_limit_zero_never_preempts(view, predictor, bounds):
    assert not make_plan(view, PolicyChoice("trail", predictor, 0.0, 0.0, 100), bounds).preemptions


@pytest.mark.parametrize("policy", ["fcfs", "sjf"])
@given(views(), st.sampled_from(sorted(PAIRINGS)), limits)
@settings(deadline=None)
def test_fcfs_and_sjf_never_preempt(policy, view, predictor, bounds):
    assert not make_plan(view, PolicyChoice(policy, predictor, 1.0, 0.0, 100), bounds).preemptions


@given(views())
@settings(deadline=None)
def test_fcfs_orders_by_arrival(view):
    plan = make_plan(view, PolicyChoice("fcfs"), PlannerLimits(waiting_head=1000))
    arrival = dict(zip(view.handle.tolist(), view.arrival_s.tolist(), strict=True))
    assert [arrival[handle] for handle in plan.handles.tolist()] == sorted(arrival.values())


@given(views(), st.sampled_from(sorted(PAIRINGS)), st.floats(0, 1))
@settings(deadline=None)
def test_trail_serves_whoever_is_past_its_cut_off_before_all_others(view, predictor, limit):
    plan = make_plan(view, PolicyChoice("trail", predictor, limit), PlannerLimits(waiting_head=1000))
    totals = PAIRINGS[predictor].lengths(view).total
    begun = view.running | (view.age > 0) | (view.preemptions > 0)
    past = set(view.handle[begun & (view.age >= limit * totals)].tolist())
    assert set(plan.handles.tolist()[: len(past)]) == past
