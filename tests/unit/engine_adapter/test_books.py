import numpy as np
import pytest

from engine_adapter.agent.counters import Counters
from engine_adapter.agent.plan_book import REMEMBERED_PLANS, PlanBook, median_of
from engine_adapter.agent.prediction_book import KEPT_PER_REQUEST, PredictionBook
from engine_adapter.board import NO_PREDICTION_AGE
from engine_adapter.records import handle_of
from tests.unit.engine_adapter.samples import step


def handles(*names: str) -> np.ndarray:
    return np.array([handle_of(name) for name in names], np.uint64)


def ages(*values: int) -> np.ndarray:
    return np.array(values, np.uint32)


def test_use_counts_running_requests_whose_rank_rests_on_a_prediction() -> None:
    counters = Counters()
    book = PlanBook(counters)
    book.add(5, handles("a", "b", "c", "waiting"), ages(7, NO_PREDICTION_AGE, 0, 0))
    unplanned = {f"unplanned-{number}": 9 for number in range(20)}
    book.stepped(step(1, {"a": 9, "b": 9, "c": 9, **unplanned}, plan=5))
    assert counters.predictions_used == 2
    assert (counters.refined_predictions_used, counters.predictions_used_past_first_token) == (1, 2)
    assert np.flatnonzero(book.age_histogram).tolist() == [2, 9]


def test_a_young_request_does_not_count_as_unrefined() -> None:
    counters = Counters()
    book = PlanBook(counters)
    book.add(5, handles("a", "b"), ages(0, 0))
    book.stepped(step(1, {"a": 0, "b": 1}, plan=5))
    assert (counters.predictions_used, counters.predictions_used_past_first_token) == (2, 0)


def test_a_plan_counts_once_however_many_steps_follow_it() -> None:
    counters = Counters()
    book = PlanBook(counters)
    for plan in (0, 1, 1, 4, 4, 0):
        book.stepped(step(1, {"a": 3}, plan=plan))
    assert (counters.plans_applied, counters.fail_open_steps, counters.steps) == (2, 2, 6)


def test_preemptions_are_told_apart_by_who_asked_for_them() -> None:
    counters = Counters()
    PlanBook(counters).stepped(step(1, {"a": 3}, preempted=["x", "y", "z"], by_plan=2))
    assert (counters.preemptions_by_plan, counters.preemptions_by_engine) == (2, 1)


def test_only_the_newest_plans_are_remembered() -> None:
    counters = Counters()
    book = PlanBook(counters)
    for number in range(1, REMEMBERED_PLANS + 2):
        book.add(number, handles("a"), ages(1))
    book.stepped(step(1, {"a": 3}, plan=1))
    assert counters.predictions_used == 0
    book.stepped(step(1, {"a": 3}, plan=2))
    assert counters.predictions_used == 1


@pytest.mark.parametrize(("values", "median"), [([], None), ([3], 3), ([1, 2], 1.5), ([0, 0, 9], 0), ([5, 1, 1, 7], 3)])
def test_the_median_of_a_histogram_is_that_of_its_values(values: list[int], median: float | None) -> None:
    assert median_of(np.bincount(np.array(values, np.int64), minlength=1)) == median


def test_the_error_of_predictions_is_known_when_the_request_ends() -> None:
    counters = Counters()
    book = PredictionBook(counters)
    book.note(1, 0, 20.0)
    book.note(1, 4, 10.0)
    book.finished(1, output_tokens=12)
    # |20 - 12| and |10 - 8|
    assert (counters.finished_predictions, counters.absolute_error_tokens_sum) == (2, 10.0)
    assert len(book) == 0


def test_a_long_request_keeps_few_predictions_evenly_spread() -> None:
    counters = Counters()
    book = PredictionBook(counters)
    for age in range(10_000):
        book.note(1, age, 0.0)
    book.finished(1, output_tokens=0)
    assert KEPT_PER_REQUEST / 2 <= counters.finished_predictions < KEPT_PER_REQUEST
    assert counters.absolute_error_tokens_sum / counters.finished_predictions == pytest.approx(5000, rel=0.02)
