"""Simulated predictors err as they are said to."""

import numpy as np
import pytest

from sidecar.cli.simulate.error_models import LogNormal, Oracle, Refined, Shuffled
from sidecar.cli.simulate.errors import SimulateError
from sidecar.cli.simulate.prediction_names import parse_predictions
from sidecar.cli.simulate.predictions import persistent_scores

LENGTHS = np.array([5, 1, 300, 40] * 500)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_the_oracle_knows_what_remains_at_every_age() -> None:
    paths = Oracle().paths(LENGTHS, rng())
    requests, ages = np.array([2, 2, 3]), np.array([0, 299, 7])
    assert paths.at_ages(requests, ages).median.tolist() == [300.0, 1.0, 33.0]
    assert paths.on_arrival(np.array([1])).r0.tolist() == [1.0]


def test_log_normal_totals_are_fixed_and_counted_down_to_one_token() -> None:
    paths = LogNormal(0.75).paths(LENGTHS, rng())
    total = paths.total.median
    assert np.log(total[2::4] / 300).std() == pytest.approx(0.75, rel=0.1)
    said = paths.at_ages(np.full(300, 2), np.arange(300)).median
    assert said.tolist() == np.maximum(total[2] - np.arange(300), 1).tolist()
    assert (paths.remaining.p10 <= paths.remaining.median).all()
    assert (paths.remaining.p90 >= paths.remaining.median).all()


def test_refined_errors_are_about_what_remains() -> None:
    paths = Refined(0.5).paths(LENGTHS, rng())
    said = paths.at_ages(np.arange(2, 2000, 4), np.full(500, 200)).median
    assert np.log(said / 100).std() == pytest.approx(0.5, rel=0.15)


def test_shuffled_predictions_are_another_requests() -> None:
    paths = Shuffled().paths(LENGTHS, rng())
    assert sorted(paths.total.median.tolist()) == sorted(LENGTHS.tolist())
    assert abs(np.corrcoef(paths.total.median, LENGTHS)[0, 1]) < 0.1


def test_r1_is_what_was_said_after_the_prompt_at_every_later_age() -> None:
    paths = Refined(0.5).paths(LENGTHS, rng())
    later = paths.at_ages(np.array([2, 2]), np.array([0, 100]))
    assert later.r1[0] == later.r1[1] == later.median[0]


def test_scores_persist_as_long_as_asked() -> None:
    lengths = np.full(4000, 50)
    at_prompt, scores = persistent_scores(lengths, rng(), 0.9, 0.4, 0.5)
    by_request = scores.reshape(4000, 50)
    assert np.corrcoef(by_request[:, 10], by_request[:, 11])[0, 1] == pytest.approx(0.94, abs=0.02)
    assert np.corrcoef(by_request[:, 0], by_request[:, 49])[0, 1] == pytest.approx(0.4, abs=0.05)
    assert np.corrcoef(at_prompt, by_request[:, 0])[0, 1] == pytest.approx(0.5, abs=0.05)
    assert by_request.std() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(
    "text", ["", "lognormal", "lognormal:-1", "lognormal:x", "measured:", "measured:nowhere", "mind"]
)
def test_what_names_no_predictions_is_refused(text: str) -> None:
    with pytest.raises(SimulateError, match="--predictions"):
        parse_predictions(text)
