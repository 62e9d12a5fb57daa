"""Predictor pairings."""

import numpy as np

from scheduler_service.borrowing import Lender
from scheduler_service.pairing import PAIRINGS
from tests.unit.scheduler_service.views import running, view_of, waiting


def test_per_step_counts_the_newest_prediction_down_by_one_a_token():
    view = view_of(running(age=50, remaining=0) | {"median": 100.0, "predicted_at_age": 30, "r1": 120.0})
    lengths = PAIRINGS["per_step"].lengths(view)
    assert lengths.remaining.tolist() == [80.0]
    assert lengths.total.tolist() == [120.0]
    assert lengths.predicted_at_age.tolist() == [30]


def test_no_living_request_has_less_than_one_token_to_come():
    view = view_of(running(age=500, remaining=3, total=10) | {"predicted_at_age": 100, "borrowed_r": 5})
    assert all(pairing.lengths(view).remaining[0] == 1.0 for pairing in PAIRINGS.values())


def test_requests_without_a_prediction_are_taken_to_be_like_those_that_finished():
    view = view_of({"age": 20}, mean_output_tokens=90.0)
    for name in ("per_step", "prompt_only", "shuffled", "oracle"):
        lengths = PAIRINGS[name].lengths(view)
        assert (lengths.remaining[0], lengths.total[0]) == (70.0, 90.0)
        assert lengths.predicted_at_age[0] == -1
        assert lengths.fallback[0]


def test_prompt_only_uses_r0_though_more_is_known():
    view = view_of(running(age=20, remaining=7) | {"r0": 100.0})
    lengths = PAIRINGS["prompt_only"].lengths(view)
    assert (lengths.remaining[0], lengths.total[0], lengths.predicted_at_age[0]) == (80.0, 100.0, 0)


def test_oracle_uses_the_declared_length_and_flags_who_declared_none():
    view = view_of(running(age=20, remaining=7, declared_output_tokens=60), running(age=20, remaining=7))
    lengths = PAIRINGS["oracle"].lengths(view)
    assert lengths.remaining.tolist() == [40.0, 7.0]
    assert lengths.fallback.tolist() == [False, True]


def test_shuffled_counts_the_borrowed_total_down():
    view = view_of(waiting(remaining=10, borrowed_r=300.0), running(age=100, remaining=5, borrowed_r=300.0))
    assert PAIRINGS["shuffled"].lengths(view).remaining.tolist() == [300.0, 200.0]


def test_borrowed_totals_keep_the_distribution_and_lose_the_correlation():
    totals = np.random.default_rng(0).lognormal(4.7, 1.0, 4000)
    lender = Lender()
    borrowed = np.array([lender.exchange(handle, total) for handle, total in enumerate(totals.tolist(), 1)])
    lent, own = borrowed[500:], totals[500:]
    assert abs(np.corrcoef(np.log(own), np.log(lent))[0, 1]) < 0.06
    assert abs(np.log(lent).mean() - np.log(own).mean()) < 0.1
    assert set(lent.tolist()) <= set(totals.tolist())


def test_nobody_borrows_its_own_total_and_the_same_log_borrows_the_same():
    def run() -> list[float]:
        lender = Lender()
        return [lender.exchange(handle, float(handle)) for handle in (5, 5, 6, 7, 8, 8)]

    assert run() == run()
    assert run()[:2] == [0.0, 0.0]
    assert all(lent != own for lent, own in zip(run(), [5, 5, 6, 7, 8, 8], strict=True))
