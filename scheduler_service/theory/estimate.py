"""The mean response time that a simulation says, with its 95 % interval.

A few long jobs decide how a run goes. So each run's luck is measured by quantities whose mean is known whatever the
order of service (the sizes, and by Pollaczek and Khinchine the work of the requests with small predictions), and what
they explain is taken off by linear regression over batch means: control variates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from scheduler_service.theory.joint import JointDensity
from scheduler_service.theory.queue_simulation import response_times, work_found
from scheduler_service.theory.sizes import Floats

RUN_REQUESTS = 1_000_000
BATCHES = 50
FEWEST_REQUESTS = 100_000
"""Fewer would make batches so short that one tells of the next."""
CONTROL_SHARES = (0.3, 0.5, 0.7, 0.85, 0.95, 1.0)
"""Of the work, in the order of predictions: the controls watch the queue of each such part."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """``mean`` +- ``half_width`` holds the mean response time with 95 %; ``batches``: what each batch says alone."""

    mean: float
    half_width: float
    batches: tuple[float, ...]


def simulate(
    joint: JointDensity,
    arrival_rate: float,
    limits: Sequence[float],
    requests: int,
    seed: int,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Estimate]:
    """An estimate for each limit, all of them from the same arrivals; ``progress`` hears of requests simulated.

    Raises:
        ValueError: too few requests.
    """
    if requests < FEWEST_REQUESTS:
        raise ValueError(f"requests must be at least {FEWEST_REQUESTS}, not {requests}")
    runs = -(-requests // RUN_REQUESTS)
    batch = requests // runs // BATCHES
    found = []
    for run in range(runs):
        rng = np.random.default_rng([seed, run])
        size, prediction = joint.draw(rng, batch * BATCHES)
        arrival = np.cumsum(rng.exponential(1 / arrival_rate, size.size))
        columns = _controls(joint, arrival_rate, arrival, size, prediction)
        for c in limits:
            columns.append(response_times(arrival, size, prediction, c))
            progress(size.size)
        found.append(_batch_means(columns))
    controls, responses = np.split(np.stack(found), [-len(limits)], axis=2)
    return [_adjusted(responses[:, :, column], controls) for column in range(len(limits))]


def _controls(
    joint: JointDensity, arrival_rate: float, arrival: Floats, size: Floats, prediction: Floats
) -> list[Floats]:
    """Arrays [N] of mean zero."""
    controls = [size - joint.mean_size, size**2 - joint.mean_square_size]
    shares = np.array(CONTROL_SHARES) * joint.mean_size * (1 - 1e-12)
    for knot in np.searchsorted(joint.work, shares):
        found = work_found(arrival, np.where(prediction <= joint.knots[knot], size, 0.0))
        expected = arrival_rate * joint.square[knot] / (2 * (1 - arrival_rate * joint.work[knot]))
        controls.append(found - expected)
    return controls


def _batch_means(columns: Sequence[Floats]) -> Floats:
    """[BATCHES - 2, columns]: without the first batch, which starts empty, and the last, which nobody follows."""
    means: Floats = np.stack(columns).reshape(len(columns), BATCHES, -1).mean(axis=2)
    return means[:, 1:-1].T


def _adjusted(response: Floats, controls: Floats) -> Estimate:
    """From batch means [runs, batches] and [runs, batches, controls]."""
    y, z = response.ravel(), controls.reshape(response.size, -1)
    design = np.column_stack([np.ones(y.size), z])
    fitted, *_ = np.linalg.lstsq(design, y, rcond=None)
    residual = y - design @ fitted
    freedom = y.size - design.shape[1]
    variance = residual @ residual / freedom * np.linalg.pinv(design.T @ design)[0, 0]
    half_width = float(student.ppf(0.975, freedom) * np.sqrt(variance))
    return Estimate(float(fitted[0]), half_width, tuple((fitted[0] + residual).tolist()))
