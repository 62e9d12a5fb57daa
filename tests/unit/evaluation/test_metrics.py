import numpy as np
import pytest

from predictor_service.evaluation.metrics import kendall, mean_per_request, mean_per_step, snapshots


def test_requests_or_steps_count_the_same() -> None:
    error, request = np.array([0.0, 0.0, 0.0, 8.0]), np.array([0, 0, 0, 1])
    assert mean_per_request(error, request)["value"] == pytest.approx(4.0)
    assert mean_per_step(error, request)["value"] == pytest.approx(2.0)


def test_the_interval_covers_the_value_and_narrows_with_more_requests() -> None:
    rng = np.random.default_rng(0)
    few, many = (mean_per_request(rng.normal(5, 1, n), np.arange(n)) for n in (30, 3000))
    for one in (few, many):
        assert one["low"] <= one["value"] <= one["high"]
    assert many["high"] - many["low"] < (few["high"] - few["low"]) / 3


def test_kendall_knows_order_reversal_and_ties() -> None:
    true = np.arange(20.0)
    assert kendall([true * 3], [true])["value"] == 1.0
    assert kendall([-true], [true])["value"] == -1.0
    tied = kendall([np.floor(true / 10)], [true])["value"]
    assert tied == pytest.approx(100 / np.sqrt(100 * 190), abs=1e-4)
    assert kendall([np.ones(20)], [true])["value"] == 0.0


def test_a_snapshot_has_one_step_of_each_request() -> None:
    request = np.repeat(np.arange(5), [1, 2, 3, 4, 5])
    for look in snapshots(request, count=10, seed=0):
        assert request[look].tolist() == [0, 1, 2, 3, 4]
