import numpy as np
import pytest
from scipy.stats import kendalltau, weightedtau

from predictor_service.evaluation.resampling import Sample, estimate

REQUEST = np.array([0, 0, 0, 1, 2, 2])
PROMPT = np.array([5, 5, 5, 5, 3, 3])


def one_each(count: int) -> Sample:
    return Sample.of(np.arange(count), np.arange(count))


def test_every_request_counts_the_same_however_many_positions_it_has() -> None:
    sample = Sample.of(REQUEST, PROMPT)
    assert sample.mean(np.array([3.0, 3.0, 3.0, 9.0, 0.0, 0.0]))[0] == pytest.approx((3 + 9 + 0) / 3)
    assert sample.mean(np.eye(6))[0] == pytest.approx([1 / 9] * 3 + [1 / 3] + [1 / 6] * 2)
    assert sample.median(np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))[0] == 4.0


def test_requests_of_one_prompt_move_together() -> None:
    same = np.repeat(np.random.default_rng(0).normal(size=40), 25)
    request = np.arange(1000)
    together = estimate(Sample.of(request, request // 25).mean(same))
    apart = estimate(Sample.of(request, request).mean(same))
    assert together["high"] - together["low"] > 4 * (apart["high"] - apart["low"])
    assert together["value"] == apart["value"]


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    inside = [
        found["low"] <= 0 <= found["high"]
        for found in (estimate(one_each(60).mean(rng.normal(size=60))) for _ in range(300))
    ]
    assert 0.90 <= np.mean(inside) <= 0.98


@pytest.mark.parametrize("levels", [4, 1000])
def test_tau_is_scipys_where_all_weigh_the_same(levels: int) -> None:
    rng = np.random.default_rng(2)
    a = rng.integers(0, levels, 300).astype(float)
    b = np.round(a + rng.normal(size=300) * levels / 2)
    assert one_each(300).tau(a, b)[0] == pytest.approx(kendalltau(a, b).statistic)


def test_tau_of_weighted_positions_is_scipys_weighted_tau_with_multiplied_weights() -> None:
    rng = np.random.default_rng(3)
    request = np.repeat(np.arange(40), rng.integers(1, 9, 40))
    prompt, shuffled = request // 3, rng.permutation(len(request))
    a, b = rng.integers(0, 20, len(request)) * 1.0, rng.integers(0, 20, len(request)) * 1.0
    weight = 1 / np.bincount(request)[request]
    expected = weightedtau(a, b, rank=np.arange(len(a)), weigher=lambda row: weight[row], additive=False).statistic
    assert Sample.of(request, prompt).tau(a, b)[0] == pytest.approx(expected)
    mixed = Sample.of(request[shuffled], prompt[shuffled])
    assert mixed.tau(a[shuffled], b[shuffled])[0] == pytest.approx(expected)


def test_a_draw_of_tau_is_the_tau_of_the_drawn_requests() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=30), rng.normal(size=30)
    sample = one_each(30)
    drawn = np.repeat(np.arange(30), sample.times[7].astype(int))
    assert sample.tau(a, b)[7] == pytest.approx(kendalltau(a[drawn], b[drawn]).statistic)


def test_tau_of_a_constant_is_zero() -> None:
    assert one_each(9).tau(np.ones(9), np.arange(9.0)).tolist() == [0.0] * len(one_each(9).times)
