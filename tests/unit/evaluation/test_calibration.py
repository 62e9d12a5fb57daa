from dataclasses import replace

import numpy as np
import pytest

from predictor_service.bins import Bins
from predictor_service.evaluation import calibration
from predictor_service.evaluation.predicted import Predicted
from predictor_service.evaluation.resampling import Sample

EDGES = np.array([0.0, 10.0, 20.0, 40.0, 80.0])
BINS = Bins(EDGES, np.array([5.0, 15.0, 30.0, 60.0, 100.0]))
CAP = 60


def drawn_from(q: list[float], rows: int, cap: int = CAP) -> Predicted:
    """Truths that really follow q, cut at the cap, and its quantiles as the service caps them."""
    rng = np.random.default_rng(0)
    matrix = np.tile(np.array(q), (rows, 1))
    level = rng.random(rows)
    length = np.array([BINS.quantile(matrix[:1], one)[0] for one in level])
    truth = np.minimum(np.floor(length), cap)
    p10, median, p90 = (np.minimum(one, cap) for one in BINS.quantiles(matrix, (0.1, 0.5, 0.9)))
    age = np.zeros(rows, dtype=np.int64)
    return Predicted(np.arange(rows), age, truth, median, median, p10, p90, matrix.astype(np.float32))


def error_of(predicted: Predicted) -> float:
    level_of = calibration.levels(predicted, BINS, CAP, seed=1)
    sample = Sample.of(predicted.request, predicted.request)
    nominal, is_below = calibration.below(predicted, level_of)
    return float(calibration.expected_calibration_error(sample.mean(is_below), nominal)[0])


def test_levels_of_a_calibrated_posterior_are_uniform_even_where_many_are_cut() -> None:
    predicted = drawn_from([0.2, 0.2, 0.2, 0.2, 0.2], 4000)
    assert (predicted.truth == CAP).mean() > 0.25
    level_of = calibration.levels(predicted, BINS, CAP, seed=1)
    assert np.histogram(level_of, 10, (0, 1))[0] / 4000 == pytest.approx([0.1] * 10, abs=0.02)
    assert error_of(predicted) < 0.015


def test_the_calibration_error_is_how_far_the_shares_are_off() -> None:
    honest = drawn_from([0.2, 0.2, 0.2, 0.2, 0.2], 4000)
    sure = np.tile(np.array([0.0, 0.0, 1.0, 0.0, 0.0], dtype=np.float32), (4000, 1))
    # 40 % lie below the only bin that is thought possible and 40 % above, so the shares run from 0.42 to 0.58.
    assert error_of(replace(honest, q=sure)) == pytest.approx(np.mean(np.abs(0.32 - np.arange(9) * 0.08)), abs=0.02)


def test_without_posteriors_the_served_quantiles_are_judged() -> None:
    predicted = replace(drawn_from([0.2, 0.2, 0.2, 0.2, 0.2], 1000), q=None)
    nominal, is_below = calibration.below(predicted, None)
    assert nominal.tolist() == [0.1, 0.5, 0.9]
    assert is_below.mean(axis=0)[:2] == pytest.approx([0.1, 0.5], abs=0.06)
    with pytest.raises(ValueError, match="posterior q"):
        calibration.levels(predicted, BINS, CAP, seed=0)


def test_coverage_counts_both_ends_and_pinball_punishes_by_level() -> None:
    column = np.array
    predicted = Predicted(
        np.arange(4), np.zeros(4, dtype=np.int64), column([10.0, 90, 9, 91]),
        *(np.full(4, float(v)) for v in (50, 50, 10, 90)),
    )  # fmt: skip
    assert calibration.coverage(predicted).tolist() == [1, 1, 0, 0]
    assert calibration.pinball(predicted)[0] == pytest.approx((0 + 0.5 * 40 + 0.1 * 80) / 3)
    assert calibration.pinball(predicted)[3] == pytest.approx((0.1 * 81 + 0.5 * 41 + 0.9 * 1) / 3)
