import numpy as np
import pytest

from predictor_service.bins import Bins

BINS = Bins(np.array([0.0, 10.0, 30.0]), np.array([4.0, 19.0, 80.0]))


def test_the_mean_weighs_the_representatives() -> None:
    assert BINS.mean(np.array([[0.5, 0.25, 0.25]])) == pytest.approx([2 + 4.75 + 20])


def test_quantiles_are_interpolated_inside_bins_and_exponential_in_the_open_one() -> None:
    q = np.array([[0.4, 0.4, 0.2]])
    assert BINS.quantile(q, 0.1) == pytest.approx([2.5])
    assert BINS.quantile(q, 0.5) == pytest.approx([15.0])
    # Half of the open bin's mass is below level 0.9: the median of an exponential with mean 50.
    assert BINS.quantile(q, 0.9) == pytest.approx([30 + 50 * np.log(2)])


def test_all_mass_in_one_bin_keeps_quantiles_finite() -> None:
    for i in range(3):
        lengths = BINS.quantiles(np.eye(3)[i : i + 1], (0.0, 0.5, 0.9, 1.0))
        assert np.isfinite(lengths).all()


def test_the_probability_of_at_most_n_tokens_is_the_inverse_of_the_quantile() -> None:
    q = np.array([[0.4, 0.4, 0.2]])
    assert BINS.probability_at_most(q, 15.0) == pytest.approx([0.5])
    assert BINS.probability_at_most(q, 0.0) == pytest.approx([0.0])
    assert BINS.probability_at_most(q, 30 + 50 * np.log(2)) == pytest.approx([0.9])


@pytest.mark.parametrize(("mean", "error"), [(20.0, 0.0), (20.0, 5.0), (5.0, 100.0), (1e6, 1.0)])
def test_a_declared_length_spreads_into_a_distribution_around_it(mean: float, error: float) -> None:
    q = BINS.spread(mean, error)
    assert q.sum() == pytest.approx(1.0)
    assert (q >= 0).all()
    if error < mean:
        assert q[np.searchsorted(BINS.edges, mean, side="right") - 1] > 0.8
