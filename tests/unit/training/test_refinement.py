import numpy as np
import pytest

from predictor_service.bins import Bins
from predictor_service.training.labels import leaving_rates, log_edges
from predictor_service.training.refinement import Refinement, refine
from predictor_service.training.tune import Scale, ranked_score

EDGES = log_edges(12, 4, 256)


def _settings(tau: float, floor: float = 1e-6) -> Refinement:
    return Refinement(leaving_rates(EDGES, 0.005), np.full(12, 1 / 12), tau, floor)


def test_a_stream_begins_with_what_the_classifier_says() -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(12), 7).astype(np.float32)
    age = np.array([0, 1, 2, 3, 0, 1, 2])
    q = refine(p, age, _settings(0.3))
    assert q[[0, 4]] == pytest.approx(p[[0, 4]], abs=1e-6)
    assert q.sum(axis=1) == pytest.approx(np.ones(7))


def test_requests_beside_each_other_do_not_mix() -> None:
    p = np.random.default_rng(1).dirichlet(np.ones(12), 9).astype(np.float32)
    age = np.array([0, 1, 2, 3, 4, 5, 0, 1, 2])
    both = refine(p, age, _settings(0.5))
    assert both[:6] == pytest.approx(refine(p[:6], age[:6], _settings(0.5)))
    assert both[6:] == pytest.approx(refine(p[6:], age[6:], _settings(0.5)))


def test_without_evidence_mass_moves_towards_the_end() -> None:
    p = np.tile(np.eye(12, dtype=np.float32)[6], (40, 1))
    q = refine(p, np.arange(40), _settings(1e-9))
    mean_bin = q @ np.arange(12)
    assert np.all(np.diff(mean_bin) < 0)


def test_noisy_evidence_is_pooled_over_steps() -> None:
    rng = np.random.default_rng(2)
    truth = 100 - np.arange(80)
    bins = np.searchsorted(EDGES, truth, side="right") - 1
    centre = np.clip(bins + rng.normal(0, 1.5, 80), 0, 11)
    p = np.exp(-0.5 * ((np.arange(12) - centre[:, None]) / 1.5) ** 2)
    p = (p / p.sum(axis=1, keepdims=True)).astype(np.float32)
    wrong = np.abs(p.argmax(axis=1) - bins)[20:].mean()
    refined = refine(p, np.arange(80), _settings(0.3))
    assert np.abs(refined.argmax(axis=1) - bins)[20:].mean() < wrong


@pytest.mark.parametrize("every", [2, 4])
def test_looking_at_every_kth_token_is_the_same_stream_thinned_out(every: int) -> None:
    p = np.random.default_rng(3).dirichlet(np.ones(12), 17).astype(np.float32)
    age = np.arange(17)
    by = Refinement(leaving_rates(EDGES, 0.005), np.full(12, 1 / 12), 0.3, 1e-6, forgetting=0.7)
    q = refine(p, age, by, every)
    seen = age // every * every
    assert q == pytest.approx(q[seen])
    garbled = p.copy()
    garbled[age % every != 0] = 1 / 12
    assert refine(garbled, age, by, every) == pytest.approx(q)
    assert refine(garbled, age, by) != pytest.approx(q)


def test_ranked_score_prefers_the_truth_and_asks_nothing_beyond_the_cap() -> None:
    scale = Scale(Bins(EDGES.astype(float), EDGES.astype(float)), max_tokens=200)
    sure, vague = np.eye(12)[[6]], np.full((1, 12), 1 / 12)
    truth, age = np.array([float(EDGES[6]) + 1]), np.array([0])
    assert ranked_score(sure, truth, age, scale) < ranked_score(vague, truth, age, scale)
    assert ranked_score(sure, truth, age, scale) < ranked_score(np.eye(12)[[3]], truth, age, scale)
    cut = np.array([50.0])  # the cap leaves 50: whatever lies above is equally right
    above = [ranked_score(np.eye(12)[[i]], cut, np.array([150]), scale)[0] for i in (9, 10, 11)]
    assert above == pytest.approx([0, 0, 0])
