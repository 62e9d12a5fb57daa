"""What is taken of a sweep, on made-up figures."""

import pytest

from sidecar.cli.tune.choice import Trial, best_of, largest_every, together_is_best
from sidecar.cli.tune.ratios import Ratio, over_pairs, over_seeds

SLACK = 0.02


def trial(mean: float, half: float = 0.01, p99: float = 1.0) -> Trial:
    return Trial(Ratio(mean, mean - half, mean + half), Ratio(p99))


DEFAULT = trial(1.0, half=0.0)


def test_the_lowest_mean_is_taken() -> None:
    assert best_of({"default": DEFAULT, "good": trial(0.95), "better": trial(0.9)}, SLACK) == "better"


def test_noise_is_not_chased() -> None:
    assert best_of({"default": DEFAULT, "lucky": trial(0.95, half=0.06)}, SLACK) is None
    assert best_of({"default": DEFAULT, "lucky": trial(0.9, half=0.2), "less": trial(0.95)}, SLACK) is None


def test_a_single_run_proves_nothing() -> None:
    assert best_of({"default": DEFAULT, "once": Trial(Ratio(0.5), Ratio(1.0))}, SLACK) is None


def test_who_lengthens_the_tail_by_more_than_the_slack_is_passed_over() -> None:
    trials = {"default": DEFAULT, "long tail": trial(0.8, p99=1.021), "kept": trial(0.9, p99=1.019)}
    assert best_of(trials, SLACK) == "kept"
    assert best_of(trials, 0.05) == "long tail"


def test_nothing_better_keeps_the_default() -> None:
    assert best_of({"default": DEFAULT, "worse": trial(1.1)}, SLACK) is None


@pytest.mark.parametrize(
    ("together", "kept"),
    [
        (trial(0.85), True),
        (trial(0.95), False),  # worse than the best alone
        (trial(0.85, p99=1.1), False),
        (trial(0.85, half=0.3), False),
    ],
)
def test_values_together_have_to_beat_the_default_and_each_alone(together: Trial, kept: bool) -> None:
    assert together_is_best(together, {"c": trial(0.9), "margin": trial(0.92)}, SLACK) is kept


@pytest.mark.parametrize(
    ("ratios", "every"),
    [
        ({1: 1.0, 2: 1.001, 4: 1.009, 8: 1.02}, 4),
        ({1: 1.0, 2: 0.99, 4: 0.98}, 4),
        ({1: 1.0, 2: 1.02, 4: 1.05}, 1),
    ],
)
def test_k_is_the_largest_that_costs_at_most_one_per_cent(ratios: dict[int, float], every: int) -> None:
    assert largest_every(ratios) == every


def test_ratios_are_paired_so_what_all_runs_share_is_no_noise() -> None:
    base = {(load, seed): {"x": 10.0 * load + seed} for load in (0.8, 1.1) for seed in range(3)}
    half = {pair: {"x": run["x"] / 2} for pair, run in base.items()}
    found = over_pairs(half, base, "x")
    assert (found.ratio, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    assert found.is_lower


def test_loads_that_differ_widen_the_interval_over_pairs_and_not_the_one_over_seeds() -> None:
    base = {(load, seed): {"x": 1.0} for load in (0.8, 1.1) for seed in range(3)}
    runs = {(load, seed): {"x": 0.9 if load == 0.8 else 0.4} for load, seed in base}
    pairs, seeds = over_pairs(runs, base, "x"), over_seeds(runs, base, "x")
    assert pairs.ratio == pytest.approx(seeds.ratio) == pytest.approx(0.6)
    assert pairs.low is not None
    assert pairs.low < 0.55
    assert seeds.low == pytest.approx(0.6)
