"""The formulas against their limits, against each other and against integrals done another way."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.integrate import quad

from scheduler_service.theory import empirical, fcfs, joint_named, limited, limited_grid, sjf, sprpt, srpt

LIMITS = (0.0, 0.2, 0.5, 0.8, 1.0)
EARLIER = {
    "exponential": (3.380, 3.199, 3.164, 3.147, 3.142),
    "perfect": (2.884, 2.640, 2.430, 2.359, 2.354),
}


@pytest.mark.parametrize("predictions", EARLIER)
def test_an_earlier_derivation_said_the_same(predictions: str) -> None:
    found = limited_grid(joint_named("exponential", predictions), [0.8], LIMITS)[0]
    assert found == pytest.approx(EARLIER[predictions], rel=0.005)


def work_below(r: float) -> float:
    """E[X; X <= r] of exponential sizes."""
    return 1 - (1 + r) * math.exp(-r)


@pytest.mark.parametrize("load", [0.3, 0.8, 0.95])
def test_without_preemption_it_is_shortest_job_first(load: float) -> None:
    """Phipps: each waits lambda E[X**2] / (2 (1 - rho(r))**2)."""
    waiting = quad(lambda r: load * math.exp(-r) / (1 - load * work_below(r)) ** 2, 0, 60, epsrel=1e-10)[0]
    joint = joint_named("exponential", "perfect")
    assert limited(joint, load, 0) == pytest.approx(1 + waiting, rel=2e-4)
    assert sjf(joint, load) == limited(joint, load, 0)


@pytest.mark.parametrize("load", [0.3, 0.8, 0.95])
def test_with_perfect_predictions_and_no_limit_it_is_srpt(load: float) -> None:
    """Schrage and Miller."""

    def response(x: float) -> float:
        square = 2 - math.exp(-x) * (x * x + 2 * x + 2) + x * x * math.exp(-x)
        residence: float = quad(lambda t: 1 / (1 - load * work_below(t)), 0, x)[0]
        return load * square / (2 * (1 - load * work_below(x)) ** 2) + residence

    expected = quad(lambda x: response(x) * math.exp(-x), 0, 50, epsrel=1e-8)[0]
    assert limited(joint_named("exponential", "perfect"), load, 1) == pytest.approx(expected, rel=2e-4)
    assert srpt(joint_named("exponential", "lognormal:0.75"), load) == pytest.approx(expected, rel=2e-4)


def test_with_no_limit_it_is_sprpt() -> None:
    """SPRPT: an old request of prediction y > r asks for max(x - y + r, 0) ahead of one of prediction r."""
    load, joint = 0.8, joint_named("exponential", "exponential")
    rng = np.random.default_rng(3)
    x, y = joint.draw(rng, 200_000)
    some = np.flatnonzero((joint.knots > 0.05) & (joint.knots < 50))[::80]
    asked = [np.where(y <= r, x, np.maximum(x - y + r, 0)) for r in joint.knots[some]]
    assert joint.old_square(1.0)[some] == pytest.approx([np.mean(each**2) for each in asked], rel=0.03)
    assert sprpt(joint, load) == limited(joint, load, 1)


@pytest.mark.parametrize(("sizes", "square"), [("exponential", 2.0), ("lognormal:1", math.e)])
def test_first_come_first_served_is_pollaczek_and_khinchine(sizes: str, square: float) -> None:
    assert fcfs(joint_named(sizes, "exponential"), 0.8) == pytest.approx(1 + 0.8 * square / 0.4, rel=1e-6)


@pytest.mark.parametrize("c", LIMITS)
def test_a_prediction_that_says_nothing_is_first_come_first_served(c: float) -> None:
    joint = empirical([1.0, 2.0, 6.0], [3.0, 3.0, 3.0])
    assert limited(joint, 0.25, c) == pytest.approx(fcfs(joint, 0.25), rel=1e-12)


@pytest.mark.parametrize(("sizes", "predictions"), [("exponential", "exponential"), ("lognormal:1", "lognormal:0.75")])
def test_samples_with_weights_say_what_their_distribution_says(sizes: str, predictions: str) -> None:
    """The points of the quadrature, taken as samples."""
    joint = joint_named(sizes, predictions)
    found = limited_grid(empirical(joint.size, joint.prediction, joint.weight), [0.8], LIMITS[::2])
    assert found == pytest.approx(limited_grid(joint, [0.8], LIMITS[::2]), rel=0.003)


def test_the_unit_of_time_is_free() -> None:
    x, y = joint_named("exponential", "exponential").draw(np.random.default_rng(2), 1000)
    rate = 0.8 / x.mean()
    seconds = limited(empirical(x, y), rate, 0.5)
    assert limited(empirical(1000 * x, 1000 * y), rate / 1000, 0.5) == pytest.approx(1000 * seconds, rel=1e-9)


def test_weights_count_a_sample_several_times() -> None:
    weighted = empirical([1.0, 3.0], [2.0, 1.0], weight=[3.0, 1.0])
    assert limited(weighted, 0.5, 0.5) == pytest.approx(limited(empirical([1, 1, 1, 3], [2, 2, 2, 1]), 0.5, 0.5))


@pytest.mark.parametrize(("sizes", "predictions"), [("exponential", "perfect"), ("lognormal:0.1", "exponential")])
def test_a_finer_quadrature_changes_next_to_nothing(sizes: str, predictions: str) -> None:
    coarse, fine = (limited_grid(joint_named(sizes, predictions, n), [0.5, 0.95], (0.4,)) for n in (1, 2))
    assert coarse == pytest.approx(fine, rel=2e-4)


def test_known_sizes_should_be_preempted_without_limit() -> None:
    means = limited_grid(joint_named("exponential", "perfect"), [0.8], LIMITS)[0]
    assert (np.diff(means) < 0).all()


def test_bad_predictions_of_nearly_equal_sizes_should_preempt_nothing() -> None:
    joint = joint_named("lognormal:0.3", "lognormal:0.75")
    assert limited(joint, 0.8, 0) < fcfs(joint, 0.8)
    assert limited(joint, 0.8, 0) < 0.95 * limited(joint, 0.8, 1)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: limited(joint_named("exponential", "perfect"), 1.0, 0.5), "arrival_rate"),
        (lambda: fcfs(joint_named("exponential", "perfect"), 1.2), "arrival_rate"),
        (lambda: fcfs(empirical([2.0], [1.0]), 0.5), "arrival_rate"),
        (lambda: limited(joint_named("exponential", "perfect"), 0.0, 0.5), "arrival_rate"),
        (lambda: limited(joint_named("exponential", "perfect"), 0.5, 1.1), "^c must"),
        (lambda: limited(joint_named("exponential", "perfect"), 0.5, math.nan), "^c must"),
        (lambda: joint_named("normal", "perfect"), "^sizes"),
        (lambda: joint_named("lognormal", "perfect"), "^sizes"),
        (lambda: joint_named("lognormal:x", "perfect"), "^sizes"),
        (lambda: joint_named("exponential", "oracle"), "^predictions"),
        (lambda: joint_named("exponential", "lognormal:9"), "^predictions"),
        (lambda: empirical([], []), "size"),
        (lambda: empirical([1.0], [1.0, 2.0]), "prediction"),
        (lambda: empirical([0.0], [1.0]), "^size"),
        (lambda: empirical([1.0], [-1.0]), "^prediction"),
        (lambda: empirical([1.0], [1.0], [0.0]), "^weight"),
    ],
)
def test_bad_input_names_its_field(call: Callable[[], object], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        call()
