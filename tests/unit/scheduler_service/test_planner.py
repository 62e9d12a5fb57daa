"""Plans: order, head of the queue, preemptions that pay."""

from dataclasses import replace

import numpy as np
import pytest

from scheduler_service.choice import PolicyChoice
from scheduler_service.planner import Plan, PlannerLimits, make_plan, rank
from scheduler_service.policies import NO_GUARD, Ranking
from scheduler_service.preemption import PlannedPreemption, choose_preemptions
from scheduler_service.view import Capacity, EngineView
from scheduler_service.work import Work
from tests.unit.scheduler_service.views import full, running, view_of, waiting

LIMITS = PlannerLimits()


def plan(view: EngineView, limits: PlannerLimits = LIMITS, **choice: object) -> Plan:
    return make_plan(view, PolicyChoice(**choice), limits)


def test_trail_orders_by_remaining_service():
    view = view_of(waiting(300), running(10, 200), waiting(20), running(5, 100))
    assert plan(view).handles.tolist() == [3, 4, 2, 1]


def test_sjf_orders_by_the_total_whatever_the_age():
    view = view_of(running(age=90, remaining=10, total=100), waiting(50))
    assert plan(view, policy="sjf").handles.tolist() == [2, 1]
    assert plan(view, policy="srpt").handles.tolist() == [1, 2]


def test_prefill_still_to_do_counts_in_seconds_and_not_in_tokens():
    long_prompt = waiting(10) | {"prompt_tokens": 40_000}
    view = view_of(long_prompt, waiting(20), prefill_tokens_per_s=4000.0, step_duration_s=0.02)
    assert plan(view).handles.tolist() == [2, 1]
    assert plan(view, PlannerLimits(unit="tokens")).handles.tolist() == [1, 2]
    seconds = rank(view, PolicyChoice(aging="none"), "seconds").ranking.ranks
    assert seconds.tolist() == pytest.approx([10 * 0.02 + 10, 20 * 0.02 + 10 / 4000])


def test_a_request_evicted_past_its_cut_off_goes_to_the_front_and_a_new_one_does_not():
    evicted = waiting(400, age=900, total=1000) | {"preemptions": 1, "age_at_preemption": 900}
    view = view_of(waiting(5), evicted, running(2, 50, total=60))
    assert plan(view, preemption_limit=0.8).handles.tolist()[0] == 2
    assert plan(view_of(waiting(500), waiting(5)), preemption_limit=0.0).handles.tolist() == [2, 1]


def test_a_full_batch_gives_the_longest_ones_place_to_a_short_newcomer():
    view = view_of(running(2, 500), running(2, 300), waiting(10), capacity=full(2))
    (preemption,) = plan(view, preemption_limit=0.5).preemptions
    assert preemption == PlannedPreemption(victim=1, only_if_age_below=251, beneficiary=3)


def test_nobody_is_preempted_while_there_is_a_free_place():
    assert not plan(view_of(running(2, 500), running(2, 300), waiting(10), capacity=full(3))).preemptions


def test_a_shorter_request_takes_no_place_from_one_that_its_policy_ranks_before_it():
    view = view_of(running(2, 500), waiting(10), capacity=full(1))
    left = np.array([10.0, 0.2])
    work = Work(left, left, left, np.zeros(2), np.zeros(2), left)

    def chosen(*ranks: float) -> int:
        ranking = Ranking(np.array(ranks), np.zeros(2, np.int64), view.running, np.full(2, NO_GUARD))
        return len(choose_preemptions(view, np.argsort(ranks), ranking, work, PolicyChoice(), 4))

    assert chosen(2.0, 1.0) == 1
    assert chosen(1.0, 2.0) == 0
    assert chosen(1.0, 1.0) == 0


def test_free_places_go_to_the_best_waiting_ones_first():
    view = view_of(running(2, 500), waiting(10), waiting(20), capacity=full(2))
    assert [each.beneficiary for each in plan(view).preemptions] == [3]


def test_short_kv_makes_preemption_worth_it_only_if_the_victims_blocks_suffice():
    capacity = Capacity(max_running_requests=8, kv_blocks=100, kv_block_tokens=16)
    rows = running(100, 500), waiting(10)
    short = view_of(*rows, capacity=capacity, free_kv_blocks=0)
    assert [each.victim for each in plan(short).preemptions] == [1]
    assert not plan(view_of(*rows, capacity=capacity, free_kv_blocks=1)).preemptions
    greedy = view_of(rows[0], waiting(10) | {"prompt_tokens": 200}, capacity=capacity, free_kv_blocks=0)
    assert not plan(greedy).preemptions


def test_a_preemption_whose_recompute_costs_more_than_it_gains_is_not_asked_for():
    rows = running(2, 110) | {"computed_tokens": 8000}, waiting(10)
    cheap = view_of(*rows, capacity=full(1), prefill_tokens_per_s=100_000.0, step_duration_s=0.02)
    dear = view_of(*rows, capacity=full(1), prefill_tokens_per_s=1_000.0, step_duration_s=0.02)
    assert plan(cheap).preemptions
    assert not plan(dear).preemptions
    assert plan(dear, preemption_margin=0.1).preemptions


def test_nobody_is_preempted_for_those_who_get_a_place_that_soon_comes_free_anyhow():
    assert not plan(view_of(running(2, 500), running(2, 5), waiting(5), capacity=full(2))).preemptions
    assert plan(view_of(running(2, 500), running(2, 400), waiting(5), capacity=full(2))).preemptions


def test_a_large_batch_is_preempted_only_where_many_wait():
    def preempted(queue: int) -> bool:
        rows = *(running(2, 400) for _ in range(16)), *(running(2, 20 + 5 * each) for each in range(16))
        view = view_of(*rows, *(waiting(60) for _ in range(queue)), capacity=full(32))
        return len(plan(view, aging="none").preemptions) > 0

    assert not preempted(2)
    assert preempted(200)


def test_a_step_with_prefill_is_paid_for_by_the_preemption_that_brings_one_more():
    rows = running(2, 500), running(2, 300), waiting(10)

    def preempted(prefill_step_s: float) -> bool:
        view = view_of(*rows, capacity=full(2), step_duration_s=0.02, prefill_step_s=prefill_step_s)
        return len(plan(view).preemptions) > 0

    # 5.8 s of gain; three requests wait for that step, and both places for the newcomer's own.
    assert preempted(1.0)
    assert not preempted(2.0)


def test_recompute_is_counted_for_everybody_for_all_wait_for_it():
    def preempted(batch: int) -> bool:
        # 2 s of recompute, of each who runs or waits, against 7.9 s of gain.
        long = [running(2, left) | {"computed_tokens": 2000} for left in (500, *[400] * (batch - 1))]
        rows = [*long, waiting(5)]
        view = view_of(*rows, capacity=full(batch), prefill_tokens_per_s=1_000.0, step_duration_s=0.02)
        return len(plan(view).preemptions) > 0

    assert preempted(2)
    assert not preempted(3)


def test_a_victim_is_left_alone_until_it_progressed_and_after_its_share():
    def preempted(**more: int) -> bool:
        view = view_of(running(40, 500) | more, waiting(10), capacity=full(1))
        return len(plan(view, max_preemptions=3).preemptions) > 0

    assert not preempted(preemptions=1, age_at_preemption=40)
    assert preempted(preemptions=1, age_at_preemption=39)
    assert not preempted(preemptions=3, age_at_preemption=39)


def test_one_plan_asks_for_a_bounded_number_of_preemptions():
    rows = [running(2, 500) for _ in range(8)] + [waiting(5) for _ in range(8)]
    view = view_of(*rows, capacity=full(8))
    assert len(plan(view).preemptions) == 4
    assert len(plan(view, PlannerLimits(max_preemptions_per_plan=1)).preemptions) == 1


def test_the_head_of_the_queue_is_bounded_and_all_running_ones_are_named():
    rows = [running(2, 5000) for _ in range(3)] + [waiting(5 + i) for i in range(9)]
    named = plan(view_of(*rows), PlannerLimits(waiting_head=2)).handles.tolist()
    assert sorted(named) == [1, 2, 3, 4, 5]


def test_a_plan_tells_the_age_of_the_prediction_behind_each_rank():
    view = view_of(running(9, 5), {"age": 3}, waiting(50))
    told = plan(view)
    by_handle = dict(zip(told.handles.tolist(), told.predicted_at_ages.tolist(), strict=True))
    assert by_handle == {1: 9, 2: -1, 3: 0}
    assert told.fallbacks == 1


def test_whoever_is_dearest_to_compute_again_is_evicted_last():
    far, young = running(600, 400) | {"computed_tokens": 3000}, running(5, 300)
    view = view_of(far, young, prefill_tokens_per_s=1000.0, step_duration_s=0.02)
    assert plan(view, preemption_limit=1.0).handles.tolist() == [1, 2]
    assert plan(view, preemption_limit=1.0, preemption_margin=0.0).handles.tolist() == [2, 1]
    assert plan(view, policy="sjf").handles.tolist() == [2, 1]
    cached = replace(view, found_again_share=1.0)
    assert plan(cached, preemption_limit=1.0).handles.tolist() == [2, 1]


def test_those_past_their_cut_off_are_evicted_after_all_others_whatever_they_cost():
    past, young = running(600, 400), running(5, 300) | {"computed_tokens": 3000}
    view = view_of(past, young, prefill_tokens_per_s=1000.0, step_duration_s=0.02)
    assert plan(view, preemption_limit=0.5).handles.tolist() == [1, 2]


def test_a_request_in_prefill_is_priced_by_what_it_holds_when_the_plan_comes():
    begun = running(0, 300) | {"prompt_tokens": 2000, "computed_tokens": 0}
    rows = begun, *(running(5, 200) | {"preemptions": 3} for _ in range(31)), waiting(10)
    engine = {"prefill_tokens_per_s": 4000.0, "step_duration_s": 0.02}
    assert not plan(view_of(*rows, capacity=full(32), **engine)).preemptions
    little = full(32, step_token_budget=100)
    assert plan(view_of(*rows, capacity=little, **engine)).preemptions


def test_a_request_that_was_overtaken_enough_is_evicted_last():
    def order(**more: object) -> list[int]:
        long, short = running(50, 500), running(50, 400)
        return plan(view_of(long, short, **more), preemption_limit=1.0).handles.tolist()

    assert order() == [2, 1]
    assert order(overtaken_before_s=1000.5) == [1, 2]


def test_only_tokens_that_were_computed_once_may_be_found_again():
    lost_in_prefill = waiting(10) | {"prompt_tokens": 8000, "preemptions": 1, "age_at_preemption": 0}
    resumes = waiting(10, age=5) | {"prompt_tokens": 8000, "preemptions": 1, "age_at_preemption": 5}
    view = view_of(lost_in_prefill, resumes, prefill_tokens_per_s=1000.0, found_again_share=0.9)
    seconds = rank(view, PolicyChoice("srpt", aging="none"), "seconds").work.remaining
    assert seconds[0] == pytest.approx(8.2)
    assert seconds[1] == pytest.approx(1.0, abs=0.01)


def test_an_engine_whose_requests_took_no_time_is_planned_for():
    assert plan(view_of(waiting(10), waiting(5), mean_service_s=0.0)).handles.tolist() == [1, 2]
