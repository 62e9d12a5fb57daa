"""The simulated queue: by hand, against a plain time-stepped one, and against the formulas."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from scheduler_service.theory import empirical, joint_named, limited
from scheduler_service.theory.estimate import simulate
from scheduler_service.theory.queue_simulation import response_times, work_found

Floats = npt.NDArray[np.float64]


def ends(arrival: list[float], size: list[float], prediction: list[float], c: float) -> list[float]:
    begun = np.array(arrival, dtype=float)
    found: list[float] = (response_times(begun, np.array(size), np.array(prediction), c) + begun).tolist()
    return found


def test_a_shorter_request_takes_the_server_before_the_cut_off_only() -> None:
    """A of size 10 begins at 0; B of size 1 comes at 4, when A's rank is 6."""
    assert ends([0, 4], [10, 1], [10, 1], c=1) == [11, 5]
    assert ends([0, 4], [10, 1], [10, 1], c=0.5) == [11, 5]
    assert ends([0, 4], [10, 1], [10, 1], c=0.4) == [10, 11]
    assert ends([0, 4], [10, 1], [10, 1], c=0) == [10, 11]
    assert ends([0, 4], [10, 1], [10, 6], c=1) == [10, 11]


def test_a_request_past_its_prediction_runs_to_its_end() -> None:
    assert ends([0, 3], [10, 1], [2, 0.001], c=1) == [10, 11]


def test_a_preempted_request_waits_with_the_rank_it_has_left() -> None:
    """A has 6 left at 4 and so goes before C of 7; its age goes on from 4."""
    assert ends([0, 4, 4.5], [10, 1, 7], [10, 1, 7], c=1) == [11, 5, 18]
    assert ends([0, 4, 6.5], [10, 1, 2], [10, 1, 2], c=0.5) == [11, 5, 13]


@pytest.mark.parametrize("c", [0.05, 0.3, 0.7, 1.0])
def test_events_do_what_small_steps_do(c: float) -> None:
    """All times are multiples of the step, and no two predictions are alike."""
    rng = np.random.default_rng(4)
    arrival, size = np.cumsum(rng.integers(1, 40, 400)).astype(float), rng.integers(1, 37, 400).astype(float)
    prediction = np.maximum(size + rng.integers(-9, 30, 400), 1.0) + rng.permutation(400) / 1000 + 0.0005
    assert response_times(arrival, size, prediction, c) == pytest.approx(
        stepped(arrival, size, prediction, c) - arrival
    )


def stepped(arrival: Floats, size: Floats, prediction: Floats, c: float) -> Floats:
    """Ends, by asking at every unit of time who should run."""
    age, end, now, running = np.zeros(size.size), np.full(size.size, np.inf), 0.0, -1
    while np.isinf(end).any():
        here = np.flatnonzero((arrival <= now) & np.isinf(end))
        held = running in here and age[running] >= c * prediction[running]
        if here.size and not held:
            running = int(here[np.argmin((prediction - age)[here])])
        if here.size:
            age[running] += 1
            if age[running] == size[running]:
                end[running] = now + 1
        now += 1
    return end


def test_when_predictions_say_nothing_the_wait_is_the_work_found() -> None:
    rng = np.random.default_rng(5)
    arrival, size = np.cumsum(rng.exponential(1.2, 2000)), rng.exponential(size=2000)
    found = response_times(arrival, size, np.full(2000, 3.0), 1.0)
    assert found == pytest.approx(work_found(arrival, size) + size)


@pytest.mark.parametrize(
    ("sizes", "predictions", "c"), [("exponential", "exponential", 0.5), ("lognormal:0.3", "lognormal:0.75", 0.2)]
)
def test_it_agrees_with_the_formula(sizes: str, predictions: str, c: float) -> None:
    joint = joint_named(sizes, predictions)
    (found,) = simulate(joint, 0.7, [c], requests=300_000, seed=1)
    assert found.half_width < 0.006 * found.mean
    assert limited(joint, 0.7, c) == pytest.approx(found.mean, abs=1.5 * found.half_width)


def test_it_agrees_with_the_formula_where_predictions_are_equal() -> None:
    joint = empirical([1.0, 4.0, 2.0, 9.0, 3.0], [2.0, 2.0, 5.0, 5.0, 9.0])
    rate = 0.8 / joint.mean_size
    (found,) = simulate(joint, rate, [0.6], requests=300_000, seed=2)
    assert limited(joint, rate, 0.6) == pytest.approx(found.mean, abs=1.5 * found.half_width)


def test_too_few_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="requests"):
        simulate(joint_named("exponential", "perfect"), 0.5, [0.5], requests=1000, seed=0)
