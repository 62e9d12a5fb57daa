import numpy as np
import pytest

from predictor_service.bins import Bins
from predictor_service.training.collect import Responses
from predictor_service.training.fit import Stream
from predictor_service.training.labels import Floats, Ints, label, leaving_rates, log_edges
from predictor_service.training.refinement import Refinement
from predictor_service.training.tune import Scale, choose, interval_levels

CAP = 128
EDGES = log_edges(10, 4, CAP)
SCALE = Scale(Bins(EDGES.astype(float), EDGES.astype(float)), CAP)
START = Refinement(leaving_rates(EDGES, 0.01), np.full(10, 0.1), tau=1.0, floor=0.0)


def _streams(noise_bins: float, shared: bool) -> tuple[Stream, Responses]:
    """A classifier that is off by ``noise_bins``: anew at each step, or by the same for a whole response."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(8, CAP, 80)
    age = np.concatenate([np.arange(n) for n in lengths])
    response = np.repeat(np.arange(80), lengths)
    off = rng.normal(0, noise_bins, 80)[response] if shared else rng.normal(0, noise_bins, len(age))
    centre = label(lengths[response] - age, EDGES) + off
    p = np.exp(-0.5 * ((np.arange(10) - centre[:, None]) / max(noise_bins, 0.3)) ** 2)
    p /= p.sum(axis=1, keepdims=True)
    offsets = np.concatenate([[0], np.cumsum(lengths + 1)])
    ones = np.ones(80, dtype=np.int64)
    return Stream(p.astype(np.float32), age, response), Responses(
        np.arange(80), ones, ones, ones, np.ones(80, dtype=bool), np.zeros(offsets[-1], dtype=np.int32), offsets
    )


def test_evidence_that_is_new_at_each_step_adds_up_and_an_error_that_stays_is_not_trusted_more() -> None:
    fresh, _ = choose(*_streams(2.0, shared=False), START, SCALE)
    stuck, tried = choose(*_streams(2.0, shared=True), START, SCALE)
    assert fresh.forgetting == 1.0
    # Bayes counts a stuck error as new evidence again and again, and gets ever surer of it.
    bayes = min(one.ranked_score for one in tried if one.forgetting == 1.0)
    assert stuck.forgetting < 1.0
    assert tried[0].ranked_score < 0.9 * bayes


def test_tried_settings_come_best_first_and_the_best_is_chosen() -> None:
    chosen, tried = choose(*_streams(1.0, shared=False), START, SCALE)
    assert (chosen.tau, chosen.forgetting, chosen.floor) == (tried[0].tau, tried[0].forgetting, tried[0].floor)
    assert [one.ranked_score for one in tried] == sorted(one.ranked_score for one in tried)


@pytest.mark.parametrize("sharpness", [0.5, 2.0])
def test_interval_levels_hold_80_percent_whatever_the_classifier_thinks_of_itself(sharpness: float) -> None:
    rng = np.random.default_rng(1)
    truth: Floats = rng.uniform(0, CAP, 4000)
    age: Ints = np.zeros(4000, dtype=np.int64)
    centre = np.searchsorted(EDGES, truth, side="right") - 1 + rng.normal(0, 1.0, 4000)
    q = np.exp(-0.5 * ((np.arange(10) - centre[:, None]) * sharpness) ** 2)
    q /= q.sum(axis=1, keepdims=True)
    low, high = interval_levels(q, truth, np.arange(4000), age, SCALE)
    inside = (SCALE.quantile(q, low, age) <= truth) & (truth <= SCALE.quantile(q, high, age))
    assert inside.mean() == pytest.approx(0.8, abs=0.02)
    assert low == pytest.approx(1 - high)
