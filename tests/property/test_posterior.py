from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from predictor_service.bins import Array, Bins
from predictor_service.posterior import Evidence, Transition

BINS = 8
ROWS = 3


def floats(low: float, high: float, shape: Any) -> st.SearchStrategy[Array]:
    return arrays(np.float64, shape, elements=st.floats(low, high, allow_subnormal=False))


def normal(mass: Array) -> Array:
    out: Array = mass / mass.sum(axis=-1, keepdims=True)
    return out


distributions = floats(1e-6, 1.0, (ROWS, BINS)).map(normal)
rates = floats(0.001, 0.9, BINS)
likelihoods = floats(0.0, 1.0, (ROWS, BINS))
evidences = st.builds(
    Evidence, floats(1e-4, 1.0, BINS).map(normal), tau=st.floats(0.05, 1.0), floor=st.floats(1e-6, 0.05)
)


@given(distributions, rates, st.integers(0, 300))
@settings(deadline=None)
def test_many_steps_at_once_are_as_many_single_steps(q: Array, rate: Array, steps: int) -> None:
    transition = Transition(rate)
    one_by_one = q
    for _ in range(steps):
        one_by_one = transition.advance(one_by_one, np.ones(ROWS, dtype=np.int64))
    at_once = transition.advance(q, np.full(ROWS, steps))
    np.testing.assert_allclose(at_once, one_by_one, rtol=1e-6, atol=1e-12)


@given(distributions, rates, st.lists(st.integers(0, 100_000), min_size=ROWS, max_size=ROWS))
@settings(deadline=None)
def test_each_request_advances_by_its_own_steps(q: Array, rate: Array, steps: list[int]) -> None:
    transition = Transition(rate)
    together = transition.advance(q, np.array(steps))
    for row in range(ROWS):
        alone = transition.advance(q[row : row + 1], np.array(steps[row : row + 1]))
        np.testing.assert_allclose(together[row], alone[0], rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(together.sum(axis=1), 1.0)


@given(distributions, rates, st.integers(1, 50))
def test_an_advance_is_conditioned_on_the_request_being_alive(q: Array, rate: Array, steps: int) -> None:
    """Against a chain with an explicit `finished` state, of which the finished mass is thrown away."""
    chain = np.zeros((BINS + 1, BINS + 1))
    chain[0, 0] = 1.0
    for i in range(BINS):
        chain[i + 1, i + 1] = 1.0 - rate[i]
        chain[i + 1, i] += rate[i]
    with_finished = np.hstack([np.zeros((ROWS, 1)), q]) @ np.linalg.matrix_power(chain, steps)
    expected = with_finished[:, 1:] / with_finished[:, 1:].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(Transition(rate).advance(q, np.full(ROWS, steps)), expected, rtol=1e-6, atol=1e-12)


@given(distributions, likelihoods, evidences)
def test_a_posterior_is_a_distribution_in_which_no_bin_dies(q: Array, p: Array, evidence: Evidence) -> None:
    posterior = evidence.update(q, p)
    assert (posterior >= evidence.floor / (1 + BINS * evidence.floor) * (1 - 1e-9)).all()
    for distribution in (posterior, evidence.start(p)):
        np.testing.assert_allclose(distribution.sum(axis=1), 1.0)
        assert (distribution > 0).all()


@given(likelihoods.map(lambda p: np.maximum(p, 1e-6)), distributions)
def test_the_paper_form_is_the_special_case_of_a_flat_pi_and_tau_one(p: Array, q: Array) -> None:
    paper = Evidence(np.full(BINS, 1.0 / BINS), tau=1.0, floor=0.0)
    np.testing.assert_allclose(paper.update(q, p), normal(q * p), rtol=1e-9, atol=1e-15)


@given(distributions, likelihoods.map(lambda p: np.maximum(p, 1e-6)), st.floats(0.01, 1.0))
def test_forgetting_one_minus_tau_is_the_logarithmic_opinion_pool(q: Array, p: Array, tau: float) -> None:
    pool = Evidence(np.linspace(1, 2, BINS) / np.linspace(1, 2, BINS).sum(), tau, floor=0.0, forgetting=1.0 - tau)
    q = np.maximum(q, 1e-6)
    np.testing.assert_allclose(pool.update(q, p), normal(q ** (1 - tau) * p**tau), rtol=1e-7, atol=1e-15)
    # Being told again what is known makes it no surer; Bayes' rule would count it twice.
    np.testing.assert_allclose(pool.update(normal(q), normal(q)), normal(q), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("forgetting", [0.0, 0.5, 1.0])
def test_a_bin_without_mass_poisons_nothing(forgetting: float) -> None:
    evidence = Evidence(np.full(4, 0.25), tau=1.0, floor=1e-6, forgetting=forgetting)
    found = evidence.update(np.array([[0.5, 0.5, 0.0, 0.0]]), np.full((1, 4), 0.25))
    assert np.isfinite(found).all()
    assert found.sum() == pytest.approx(1.0)


@given(distributions, evidences)
def test_a_classifier_that_only_knows_the_training_frequency_changes_nothing(q: Array, evidence: Evidence) -> None:
    p = np.tile(evidence.prior, (ROWS, 1))
    np.testing.assert_allclose(evidence.update(q, p), normal(np.maximum(q, evidence.floor)), rtol=1e-6)


@given(distributions, likelihoods, rates, evidences, st.integers(0, 10_000))
@settings(deadline=None)
def test_lengths_are_finite_and_in_order(q: Array, p: Array, rate: Array, evidence: Evidence, steps: int) -> None:
    bins = Bins(np.array([0, 1, 2, 4, 8, 16, 32, 64.0]), np.array([0, 1, 2.5, 5, 11, 23, 46, 120.0]))
    posterior = evidence.update(Transition(rate).advance(q, np.full(ROWS, steps)), p)
    lengths = np.stack([bins.quantile(posterior, level) for level in (0.1, 0.5, 0.9)])
    assert np.isfinite(lengths).all()
    assert (np.diff(lengths, axis=0) >= -1e-9).all()
    assert (bins.mean(posterior) >= 0).all()
    for level, length in zip((0.1, 0.5, 0.9), lengths, strict=True):
        for row in range(ROWS):
            reached = bins.probability_at_most(posterior[row : row + 1], float(length[row]))
            np.testing.assert_allclose(reached, level, atol=1e-5)


def test_the_absorbing_baseline_keeps_in_bin_0_what_would_have_finished() -> None:
    q = np.array([[0.5, 0.5]])
    step = np.ones(1, dtype=np.int64)
    rate = np.array([1.0, 0.5])
    np.testing.assert_allclose(Transition(rate, absorbing=True).advance(q, step), [[0.75, 0.25]])
    np.testing.assert_allclose(Transition(rate).advance(q, step), [[0.5, 0.5]])
