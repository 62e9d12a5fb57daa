"""Whether a preemption paid is judged by true lengths, once both requests have ended."""

import numpy as np
import pytest

from scheduler_service.hindsight import Hindsight, Judged
from scheduler_service.messages import Declaration, Delta, Epoch, Outcome, Running
from scheduler_service.preemption import PlannedPreemption
from scheduler_service.state import Assumptions, EngineState
from scheduler_service.view import Capacity

EPOCH = Epoch(1, 1)
VICTIM, OTHER, BENEFICIARY = 1, 2, 3
AGE, PROMPT = 20, 10
STEP_S, RATE = 0.1, 1000.0


class Bench:
    """Two of three requests run, at the age of 20, and the third waits. A step takes 0.1 s, 1000 tokens a second."""

    def __init__(self) -> None:
        self.state = EngineState(Capacity(2, 100, 16, 256), Assumptions(STEP_S, RATE))
        self.state.declare(Declaration(handle, f"r{handle}", PROMPT) for handle in (VICTIM, OTHER, BENEFICIARY))
        both = np.array([VICTIM, OTHER], np.uint64)
        running = Running(both, np.array([AGE, AGE]), np.array([PROMPT + AGE, PROMPT + AGE]))
        self.state.apply(Delta(EPOCH, 1, running=running))
        self.hindsight = Hindsight(self.state)

    def plan(self) -> None:
        self.hindsight.planned([PlannedPreemption(VICTIM, 100, BENEFICIARY)])

    def end(self, handle: int, tokens: int, *, reason: str = "stop", again: int = 0, times: int = 0) -> list[Judged]:
        outcome = Outcome(handle, reason, tokens, preemptions=times, recomputed_tokens=again)
        return self.hindsight.finished(outcome, self.state.capacity.places)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_it_paid_where_the_victim_was_longer_by_more_than_its_recompute_took_of_all(bench: Bench) -> None:
    bench.plan()
    bench.hindsight.preempted([VICTIM])
    assert bench.end(BENEFICIARY, 5) == []
    (judged,) = bench.end(VICTIM, 120, again=30, times=1)
    # 100 tokens left, against 5 and a prefill of 10 tokens in both places; 30 tokens again, for which two waited.
    assert judged.verdict == "paid"
    assert judged.net_s == pytest.approx(100 * STEP_S - (5 * STEP_S + 2 * 10 / RATE) - 2 * 30 / RATE)


def test_it_did_not_pay_where_the_victim_had_little_left(bench: Bench) -> None:
    bench.plan()
    bench.hindsight.preempted([VICTIM])
    bench.end(VICTIM, AGE + 3, again=30, times=1)
    (judged,) = bench.end(BENEFICIARY, 5)
    assert judged.verdict == "unpaid"
    assert judged.net_s == pytest.approx(3 * STEP_S - (5 * STEP_S + 2 * 10 / RATE) - 2 * 30 / RATE)


def test_a_recompute_is_shared_over_the_preemptions_that_caused_it(bench: Bench) -> None:
    bench.plan()
    bench.hindsight.preempted([VICTIM])
    bench.end(BENEFICIARY, 5)
    (judged,) = bench.end(VICTIM, 120, again=90, times=3)
    assert judged.net_s == pytest.approx(100 * STEP_S - (5 * STEP_S + 2 * 10 / RATE) - 2 * 30 / RATE)


def test_nobody_can_tell_where_one_was_cut_short(bench: Bench) -> None:
    bench.plan()
    bench.hindsight.preempted([VICTIM])
    bench.end(BENEFICIARY, 2, reason="abort")
    assert [judged.verdict for judged in bench.end(VICTIM, 120)] == ["unknown"]


@pytest.mark.parametrize(("planned", "done"), [(True, False), (False, True)], ids=["never done", "the engine's own"])
def test_only_what_was_planned_and_done_is_judged(bench: Bench, planned: bool, done: bool) -> None:
    if planned:
        bench.plan()
    if done:
        bench.hindsight.preempted([VICTIM])
    assert bench.end(BENEFICIARY, 5) + bench.end(VICTIM, 120) == []


def test_nothing_is_remembered_of_those_who_ended(bench: Bench) -> None:
    bench.plan()
    bench.hindsight.preempted([VICTIM])
    bench.end(BENEFICIARY, 5)
    bench.end(VICTIM, 120)
    assert not bench.hindsight._planned
    assert not bench.hindsight._of_request
