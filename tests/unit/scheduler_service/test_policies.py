"""Each policy against an answer derived another way."""

from dataclasses import replace

import numpy as np
import pytest

from scheduler_service.choice import PolicyChoice
from scheduler_service.planner import PlannerLimits, best_first, make_plan, rank
from scheduler_service.policies import NO_GUARD, POLICIES, Ranking
from scheduler_service.view import Capacity, EngineView
from scheduler_service.work import Unit
from tests.unit.scheduler_service.views import PROMPT_TOKENS, full, running, view_of, waiting

STEP_S, RATE = 0.02, 4000.0
PREFILL_S = PROMPT_TOKENS / RATE


def ranking_of(
    view: EngineView, policy: str, unit: Unit = "seconds", predictor: str = "per_step", limit: float = 0.5
) -> Ranking:
    view = replace(view, step_duration_s=STEP_S, prefill_tokens_per_s=RATE)
    return rank(view, PolicyChoice(policy, predictor, limit, aging="none"), unit).ranking


def order(view: EngineView, policy: str, **more: str) -> list[int]:
    return view.handle[best_first(view, ranking_of(view, policy, **more))].tolist()


def test_fcfs_orders_by_arrival_and_preempts_nobody():
    view = view_of(waiting(1, arrival_s=30.0), running(5, 900, arrival_s=20.0), waiting(5, arrival_s=10.0))
    assert order(view, "fcfs") == [3, 2, 1]
    assert not ranking_of(view, "fcfs").preemptible.any()


def test_priority_orders_by_the_clients_number_and_equals_by_arrival():
    told = ((2, 1.0, 1), (0, 9.0, 5), (-1, 9.0, 900), (0, 8.0, 80))
    view = view_of(*(waiting(tokens, priority=priority, arrival_s=at) for priority, at, tokens in told))
    assert order(view, "priority") == [3, 4, 2, 1]
    assert not ranking_of(view, "priority").preemptible.any()


def test_sjf_ranks_by_prompt_and_first_total_and_no_later_word_moves_it():
    view = view_of(waiting(50), running(80, 500, total=100), waiting(7, age=90, total=97, prompt_tokens=4000))
    found = ranking_of(view, "sjf")
    assert found.ranks == pytest.approx([PREFILL_S + 50 * STEP_S, PREFILL_S + 100 * STEP_S, 1.0 + 97 * STEP_S])
    assert not found.preemptible.any()


def test_srpt_ranks_by_what_is_left_with_the_prefill_still_to_do():
    half_way = running(0, 100, prompt_tokens=1000, computed_tokens=600)
    evicted = waiting(30, age=41, preemptions=1, age_at_preemption=41)
    view = view_of(waiting(50), running(80, 40), half_way, evicted, capacity=Capacity(step_token_budget=100))
    found = ranking_of(view, "srpt")
    # The last token that it made needs no prefill: the step that goes on from it computes it.
    left_s = [
        PREFILL_S + 50 * STEP_S,
        40 * STEP_S,
        300 / RATE + 100 * STEP_S,  # a hundred are under way
        (PROMPT_TOKENS + 40) / RATE + 30 * STEP_S,
    ]
    assert found.ranks == pytest.approx(left_s)
    assert found.preemptible.tolist() == [False, True, True, False]
    assert (found.guard_age == NO_GUARD).all()


def test_trail_protects_from_the_age_c_times_r_on_and_serves_those_first():
    rows = [running(age, 200, total=99) for age in (48, 49, 50)]
    found = ranking_of(view_of(*rows, waiting(1)), "trail", limit=0.5)
    assert found.guard_age.tolist()[:3] == [50, 50, 50]
    assert found.preemptible.tolist() == [True, True, False, False]
    assert found.tiers.tolist() == [0, 0, -1, 0]
    assert found.ranks == pytest.approx([200 * STEP_S] * 3 + [PREFILL_S + STEP_S])


@pytest.mark.parametrize(
    ("prompt_tokens", "age", "remaining"), [(1, 0, 1), (10, 0, 50), (300, 20, 7), (5, 999, 64), (2000, 3, 500)]
)
def test_kv_volume_is_memory_summed_over_the_steps_that_hold_it(prompt_tokens: int, age: int, remaining: int):
    view = view_of(waiting(remaining, age, prompt_tokens=prompt_tokens), capacity=Capacity(4, 100, 16))
    held = sum(prompt_tokens + age + made for made in range(1, remaining + 1))
    assert ranking_of(view, "kv_volume").ranks == pytest.approx([held * STEP_S / 1600])
    assert ranking_of(view, "kv_volume", unit="tokens").ranks == pytest.approx([held / 1600])


def test_kv_volume_sets_a_long_prompt_behind_a_longer_answer():
    view = view_of(waiting(20, prompt_tokens=4000), running(1, 60), capacity=Capacity(4, 100, 16))
    assert order(view, "kv_volume") == [2, 1]
    assert ranking_of(view, "kv_volume").preemptible.tolist() == [False, True]


def test_hrrn_orders_by_response_ratio_which_time_alone_moves():
    long, short = waiting(1000, arrival_s=0.0), waiting(100, arrival_s=30.0)
    service_s = np.array([1000, 100]) * STEP_S + PREFILL_S
    for now_s, first in ((31.0, 1), (60.0, 2)):
        view = view_of(long, short, now_s=now_s)
        ratio = 1 + (now_s - np.array([0.0, 30.0])) / service_s
        assert -ranking_of(view, "hrrn").ranks == pytest.approx(ratio)
        assert order(view, "hrrn")[0] == first
    assert POLICIES["hrrn"].moves


def test_boost_orders_by_service_had_whatever_was_predicted():
    view = view_of(running(40, 1), waiting(900), running(0, 1), waiting(1, age=10))
    found = ranking_of(view, "boost")
    assert found.ranks == pytest.approx([PREFILL_S + 41 * STEP_S, STEP_S, STEP_S, PREFILL_S + 11 * STEP_S])
    assert order(view, "boost") == [2, 3, 4, 1]
    assert found.preemptible.tolist() == [True, False, True, False]
    assert not POLICIES["boost"].uses_predictions


def test_fair_serves_the_tenant_that_had_least_and_tells_no_smaller_difference_than_a_tenth_of_a_second():
    rows = [waiting(1, tenant=tenant, arrival_s=at) for tenant, at in ((1, 1.0), (2, 5.0), (3, 4.0), (0, 9.0))]
    view = view_of(*rows, tenant_service_s=np.array([0.0, 2.0, 0.51, 0.59]))
    assert order(view, "fair") == [4, 3, 2, 1]
    assert order(replace(view, tenant_service_s=np.array([0.0, 2.0, 0.51, 0.61])), "fair") == [4, 2, 3, 1]
    assert not ranking_of(view, "fair").preemptible.any()


def predicted(p10: float, median: float, p90: float, mean: float, since: int = 0) -> dict[str, object]:
    """What a predictor said of the tokens to come, ``since`` tokens ago."""
    return waiting(median, age=5 + since, mean=mean, p10=p10, p90=p90, predicted_at_age=5)


def gittins_tokens(view: EngineView, predictor: str = "per_step") -> float:
    ranks = ranking_of(view, "gittins", predictor=predictor).ranks
    to_compute = (view.prompt_tokens + view.age - (view.age > 0))[0]
    return float((ranks[0] - to_compute / RATE) / STEP_S)


def brute_force_index(p10: float, median: float, p90: float, mean: float, since: float) -> float:
    """min over d of E[min(X, d)] / P(X <= d) on a fine grid, X what is left of a length that exceeds ``since``."""
    inside = (0.1 * p10 + 0.4 * (p10 + median) + 0.4 * (median + p90)) / 2
    tail = max((mean - inside) / 0.1 - p90, 1e-6)

    def survival(x: np.ndarray) -> np.ndarray:
        body = 1 - np.interp(x, [0.0, p10, median, p90], [0.0, 0.1, 0.5, 0.9])
        return np.where(x < p90, body, 0.1 * np.exp(-np.maximum(x - p90, 0) / tail))

    d = np.linspace(0.0, max(p90 - since, 0.0) + 20 * tail, 400_000)
    alive = survival(since + d) / survival(np.array([since]))
    invested = np.concatenate([[0.0], np.cumsum((alive[1:] + alive[:-1]) / 2 * np.diff(d))])
    return float((invested[1:] / np.maximum(1 - alive[1:], 1e-12)).min())


@pytest.mark.parametrize(
    "said",
    [
        (20.0, 100.0, 220.0, 120.0, 0),
        (2.0, 100.0, 150.0, 95.0, 0),
        (2.0, 10.0, 900.0, 300.0, 0),
        (80.0, 100.0, 120.0, 100.0, 0),
        (20.0, 100.0, 220.0, 120.0, 8),
        (20.0, 100.0, 220.0, 120.0, 60),
        (20.0, 100.0, 220.0, 120.0, 190),
        (20.0, 100.0, 220.0, 150.0, 400),
        (5.0, 30.0, 60.0, 100.0, 59),
        (40.0, 41.0, 42.0, 42.0, 39),
    ],
)
def test_gittins_is_the_least_service_per_completion_over_all_amounts(said: tuple[float, float, float, float, int]):
    p10, median, p90, mean, since = said
    found = gittins_tokens(view_of(predicted(p10, median, p90, mean, since)))
    assert found == pytest.approx(max(brute_force_index(*said), 1.0), rel=5e-3)


def test_gittins_counts_on_a_tenth_that_may_end_at_once():
    """By hand: nine tenths outlive the first token, so E[min(X, 1)] = 0.95 buys one in ten."""
    assert gittins_tokens(view_of(predicted(1.0, 100.0, 150.0, 100.0))) == pytest.approx(9.5)


def test_gittins_says_what_its_mean_says_once_all_quantiles_are_outlived():
    mean, inside = 60.0, (0.1 * 10 + 0.4 * 40 + 0.4 * 80) / 2
    view = view_of(predicted(10.0, 30.0, 50.0, mean, since=70))
    assert gittins_tokens(view) == pytest.approx((mean - inside - 0.1 * 50) / 0.1)


def test_gittins_has_no_more_than_a_length_where_nobody_predicted_quantiles():
    unpredicted = view_of({"age": 3}, mean_output_tokens=77.0)
    assert gittins_tokens(unpredicted) == pytest.approx(74.0)
    told = view_of(predicted(1.0, 2.0, 3.0, 2.0) | {"declared_output_tokens": 500})
    assert gittins_tokens(told, "oracle") == pytest.approx(495.0)


@pytest.mark.parametrize("predictor", ["oracle", "shuffled"])
def test_gittins_believes_its_pairing_and_not_the_predictor_from_the_first_token_on(predictor: str):
    row = waiting(2.0, mean=2.0, p10=1.0, p90=3.0, declared_output_tokens=500, borrowed_r=500.0)
    assert gittins_tokens(view_of(row), predictor) == pytest.approx(500.0)


@pytest.mark.parametrize("age", [8, 128, 500])
def test_boost_preempts_by_what_requests_had_for_it_knows_no_more(age: int):
    view = view_of({"running": True, "age": age, "computed_tokens": 9 + age}, {}, capacity=full(1))
    (exchange,) = make_plan(
        view, PolicyChoice("boost", aging="none", preemption_margin=0.0), PlannerLimits()
    ).preemptions
    assert (exchange.victim, exchange.beneficiary) == (1, 2)
    young = view_of({"running": True, "age": 1, "computed_tokens": 10}, {"age": 1}, capacity=full(1))
    assert not make_plan(young, PolicyChoice("boost", aging="none", preemption_margin=0.0), PlannerLimits()).preemptions
