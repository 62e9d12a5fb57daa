import numpy as np
import pytest

from predictor_service.training.labels import (
    label,
    leaving_rates,
    log_edges,
    representatives,
    sample_ages,
    tail_hazard,
)


def test_edges_start_at_zero_rise_and_end_at_the_open_bin() -> None:
    edges = log_edges(24, 4, 1024)
    assert len(edges) == 24
    assert edges[0] == 0
    assert edges[1] == 4
    assert edges[-1] == 1024
    assert np.all(np.diff(edges) > 0)


def test_more_bins_than_tokens_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="bins: 40"):
        log_edges(40, 4, 16)


def test_a_length_belongs_to_the_bin_whose_lower_edge_it_reaches() -> None:
    edges = np.array([0, 4, 10])
    assert label(np.array([1, 3, 4, 9, 10, 5000]), edges).tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("length", [1, 2, 24, 25, 1024])
def test_ages_are_distinct_sorted_begin_with_the_prompt_and_leave_out_the_finished_request(length: int) -> None:
    ages = sample_ages(length, 24, np.random.default_rng(0))
    assert len(ages) == min(length, 24)
    assert ages[0] == 0
    assert ages[-1] < length
    assert np.all(np.diff(ages) > 0)


def test_early_ages_are_looked_at_more_densely() -> None:
    ages = np.concatenate([sample_ages(1000, 24, np.random.default_rng(seed)) for seed in range(50)])
    assert np.mean(ages < 100) > 0.3


def test_hazard_counts_cut_responses_as_survivors() -> None:
    rng = np.random.default_rng(0)
    true = rng.geometric(0.01, 20_000)
    lengths, finished = np.minimum(true, 150), true <= 150
    assert tail_hazard(lengths, finished, 50) == pytest.approx(0.01, rel=0.05)


def test_hazard_without_an_ending_is_refused() -> None:
    with pytest.raises(ValueError, match="none ended"):
        tail_hazard(np.array([100, 100]), np.array([False, False]), 50)


def test_representatives_lie_in_their_bins_and_the_open_one_is_not_extrapolated() -> None:
    edges = log_edges(24, 4, 1024)
    means = representatives(np.random.default_rng(0).integers(1, 700, 5000), edges)
    assert np.all(means >= edges)
    assert np.all(means[:-1] < edges[1:])
    assert means[-1] == 1024


def test_a_uniform_request_leaves_each_bin_after_its_live_lengths() -> None:
    rates = leaving_rates(np.array([0, 4, 10]), hazard=0.001)
    assert rates == pytest.approx([1 / 3, 1 / 6, 0.001])
