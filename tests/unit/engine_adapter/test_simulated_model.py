import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_adapter.board import BoardPlan
from engine_adapter.records import Engine
from engine_adapter.simulated.model import EngineModel, StepResult
from engine_adapter.simulated.request import SimulatedRequest

SLOTS = Engine(max_running_requests=2, kv_blocks=100, kv_block_tokens=16, step_token_budget=64)


def request(name: str, prompt: int = 4, output: int = 10, arrival_s: float = 0.0) -> SimulatedRequest:
    return SimulatedRequest(name, tuple(range(prompt)), output, arrival_s)


def plan(*order: SimulatedRequest, preempt: tuple[SimulatedRequest, int, SimulatedRequest] | None = None) -> BoardPlan:
    """Best first; ``preempt`` is victim, guard, beneficiary."""
    rows = [preempt] if preempt else []
    return BoardPlan(
        number=1,
        expires_ns=2**62,
        handles=np.array([r.handle for r in order], np.uint64),
        ranks=np.arange(len(order), dtype=np.float32),
        victims=np.array([victim.handle for victim, _, _ in rows], np.uint64),
        guards=np.array([guard for _, guard, _ in rows], np.uint32),
        beneficiaries=np.array([beneficiary.handle for _, _, beneficiary in rows], np.uint64),
    )


@pytest.mark.parametrize(("reserve_blocks", "enters"), [(98, True), (99, False)])
def test_a_request_enters_beside_others_only_where_it_leaves_free_what_the_plan_says(
    reserve_blocks: int, enters: bool
) -> None:
    model = EngineModel(SLOTS)
    requests = [request(name, arrival_s=float(index)) for index, name in enumerate("ab")]
    model.submit(requests[0])
    given_plan = replace(plan(*requests), reserve_blocks=reserve_blocks)
    model.step(given_plan, 0.0)
    assert model.running == requests[:1]
    model.submit(requests[1])
    model.step(given_plan, 1.0)
    assert (requests[1] in model.running) == enters
    assert sum(len(each.finished) for each in serve(model, 40, given_plan)) == 2


@pytest.mark.parametrize(("admit_together", "starts"), [(0, [0, 0, 0, 0, 3, 6]), (2, [0, 0, 0, 0, 6, 6])])
def test_a_full_engine_admits_once_as_many_places_are_free_as_the_plan_says(
    admit_together: int, starts: list[int]
) -> None:
    model = EngineModel(replace(SLOTS, max_running_requests=4))
    requests = [request(name, output=length) for name, length in zip("abcdef", (3, 6, 20, 20, 5, 5), strict=True)]
    for each in requests:
        model.submit(each)
    results = serve(model, 30, replace(plan(*requests), admit_together=admit_together))
    assert [next(n for n, step in enumerate(results) if each in step.admitted) for each in requests] == starts


def serve(model: EngineModel, steps: int, given: BoardPlan | None = None) -> list[StepResult]:
    return [model.step(given, float(number)) for number in range(steps)]


def test_without_a_plan_requests_are_served_in_order_of_arrival() -> None:
    model = EngineModel(SLOTS)
    for index, name in enumerate("abcd"):
        model.submit(request(name, arrival_s=float(index)))
    ended = [r.request_id for result in serve(model, 20) for r in result.finished]
    assert ended == ["a", "b", "c", "d"]


def test_a_step_makes_one_token_of_each_running_request() -> None:
    model = EngineModel(SLOTS)
    only = request("a", prompt=4, output=3)
    model.submit(only)
    results = serve(model, 3)
    assert [[entry.age_tokens for entry in result.computed] for result in results] == [[0], [1], [2]]
    assert [len(result.finished) for result in results] == [0, 0, 1]
    assert (only.age_tokens, only.first_token_s) == (3, 0.0)


def test_a_long_prompt_is_prefilled_in_chunks_beside_others() -> None:
    model = EngineModel(SLOTS)
    long, short = request("long", prompt=150), request("short", prompt=4, arrival_s=1.0)
    model.submit(long)
    model.submit(short)
    serve(model, 2)
    assert long.computed_tokens == 128
    assert long.age_tokens == 0
    serve(model, 1)
    assert (long.age_tokens, short.age_tokens) == (1, 1)


def test_a_plan_decides_who_is_admitted_first() -> None:
    model = EngineModel(SLOTS)
    requests = [request(name, arrival_s=float(index)) for index, name in enumerate("abcd")]
    for each in requests:
        model.submit(each)
    model.step(plan(requests[3], requests[1]), 0.0)
    assert [r.request_id for r in model.running] == ["d", "b"]
    assert [r.request_id for r in model.waiting] == ["a", "c"]


@pytest.mark.parametrize(("guard", "preempted"), [(5, False), (6, True)])
def test_a_preemption_happens_only_while_its_guard_holds(guard: int, preempted: bool) -> None:
    model = EngineModel(SLOTS)
    a, b, c = (request(name, output=50, arrival_s=float(index)) for index, name in enumerate("abc"))
    for each in (a, b, c):
        model.submit(each)
    serve(model, 5)
    assert b.age_tokens == 5
    result = model.step(plan(c, a, b, preempt=(b, guard, c)), 5.0)
    assert (b in result.preempted_by_plan) is preempted
    assert (c in model.running) is preempted
    assert (b in model.waiting) is preempted


def test_a_preemption_whose_beneficiary_finds_a_free_place_is_not_carried_out() -> None:
    model = EngineModel(SLOTS)
    a, b = request("a", output=50), request("b", output=50, arrival_s=1.0)
    model.submit(a)
    serve(model, 2)
    model.submit(b)
    result = model.step(plan(b, a, preempt=(a, 1_000, b)), 2.0)
    assert result.preempted_by_plan == []
    assert {r.request_id for r in model.running} == {"a", "b"}


def test_a_victim_computes_everything_again_and_ends_with_its_true_length() -> None:
    model = EngineModel(SLOTS)
    a, b, c = (request(name, output=12, arrival_s=float(index)) for index, name in enumerate("abc"))
    for each in (a, b, c):
        model.submit(each)
    serve(model, 5)
    had = b.computed_tokens
    model.step(plan(c, a, b, preempt=(b, 100, c)), 5.0)
    serve(model, 40)
    assert (b.age_tokens, b.preemptions, b.recomputed_tokens) == (12, 1, had)
    assert model.waiting == model.running == []


def test_where_kv_blocks_run_out_the_worst_ranked_is_evicted() -> None:
    model = EngineModel(Engine(max_running_requests=3, kv_blocks=6, kv_block_tokens=16, step_token_budget=64))
    a, b, c = (request(name, prompt=16, output=60, arrival_s=float(index)) for index, name in enumerate("abc"))
    for each in (a, b, c):
        model.submit(each)
    results = serve(model, 40, plan(c, b, a))
    evicted = [r.request_id for result in results for r in result.evicted]
    assert evicted[0] == "a"
    assert model.free_kv_blocks >= 0


def test_a_request_that_could_never_run_is_refused() -> None:
    with pytest.raises(ValueError, match="exceed 100 KV blocks|do not fit into 100 KV blocks"):
        EngineModel(SLOTS).submit(request("a", prompt=1, output=1_600))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=12),
    st.integers(1, 5),
    st.integers(8, 20),
    st.integers(4, 64),
    st.randoms(use_true_random=False),
)
def test_whatever_the_plans_say_every_request_ends_whole_and_capacity_holds(
    sizes: list[tuple[int, int]], slots: int, kv_blocks: int, budget: int, shuffler: random.Random
) -> None:
    capacity = Engine(slots, kv_blocks, 16, budget)
    model = EngineModel(capacity)
    requests = [request(f"r{index}", *size, arrival_s=float(index)) for index, size in enumerate(sizes)]
    for each in requests:
        model.submit(each)
    for now in range(5_000):
        order = shuffler.sample(requests, len(requests))
        # Preemptions without an end would be the plan's fault, not the engine's.
        preempt = (order[-1], 2**31, order[0]) if now < 200 and now % 7 == 0 else None
        result = model.step(plan(*(order if now < 200 else requests), preempt=preempt), float(now))
        assert len(model.running) <= slots
        assert model.free_kv_blocks >= 0
        assert len(result.computed) <= budget
        if not model.running and not model.waiting:
            break
    assert [r.age_tokens for r in requests] == [output for _, output in sizes]
