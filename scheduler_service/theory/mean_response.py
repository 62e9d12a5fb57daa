"""Mean response time of an M/G/1 queue by policy, in units of the sizes' time; docs/theory.md derives the formulas.

Requests of size X with prediction Y come in a Poisson stream of rate lambda to one server. With limited preemption c
a request of prediction r has rank r - age while age < c r, and from there on runs to its end; the smallest rank runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scheduler_service.theory.joint import JointDensity
from scheduler_service.theory.sizes import Floats


def fcfs(joint: JointDensity, arrival_rate: float) -> float:
    """First come, first served (Pollaczek and Khinchine): E[X] + lambda E[X**2] / (2 (1 - rho)).

    Raises:
        ValueError: the queue has no steady state.
    """
    rho = _load(joint, arrival_rate)
    return joint.mean_size + arrival_rate * joint.mean_square_size / (2 * (1 - rho))


def sjf(joint: JointDensity, arrival_rate: float) -> float:
    """Shortest prediction first, without preemption: limited preemption with c = 0."""
    return limited(joint, arrival_rate, 0.0)


def sprpt(joint: JointDensity, arrival_rate: float) -> float:
    """Shortest predicted remaining time, preemptive until the predicted end: limited preemption with c = 1."""
    return limited(joint, arrival_rate, 1.0)


def srpt(joint: JointDensity, arrival_rate: float) -> float:
    """Shortest remaining time (Schrage and Miller): limited preemption with c = 1 and perfect predictions."""
    return limited(joint.perfected(), arrival_rate, 1.0)


def limited(joint: JointDensity, arrival_rate: float, c: float) -> float:
    """Shortest predicted remaining time with limited preemption c (TRAIL).

    Raises:
        ValueError: no steady state, or c is not within 0 and 1.
    """
    return float(limited_grid(joint, [arrival_rate], [c])[0, 0])


def limited_grid(joint: JointDensity, arrival_rates: Sequence[float], limits: Sequence[float]) -> Floats:
    """[rates, limits] of ``limited``: what does not depend on the rate is computed once."""
    for rate in arrival_rates:
        _load(joint, rate)
    for c in limits:
        if not 0 <= c <= 1:
            raise ValueError(f"c must be between 0 and 1, not {c:g}")
    old_squares = [joint.old_square(c) for c in limits]
    rows = [
        [_limited(joint, rate, c, old) for c, old in zip(limits, old_squares, strict=True)] for rate in arrival_rates
    ]
    return np.array(rows)


def _limited(joint: JointDensity, arrival_rate: float, c: float, old_square: Floats) -> float:
    """E over (x, r) of what it waits before its first token, plus its time from there to its last:

        lambda E[old(r)**2] / (2 (1 - rho(r)) (1 - rho(r-)))  +  H(r) - H(r - min(x, c r))  +  max(x - c r, 0)

    with rho(r) = lambda E[X; Y <= r] and H(t) the integral of 1 / (1 - rho) from 0 to t.
    """
    x, r = joint.size, joint.prediction
    slack, slack_before = 1 - arrival_rate * joint.work, 1 - arrival_rate * joint.work_before
    waiting = arrival_rate * old_square / (2 * slack * slack_before)
    knots = np.concatenate([[0.0], joint.knots])
    stretch = (1 / np.concatenate([[1.0], slack[:-1]]) + 1 / slack_before) / 2
    busy = np.concatenate([[0.0], np.cumsum(stretch * np.diff(knots))])
    preemptible = np.minimum(x, c * r)
    residence = np.interp(r, knots, busy) - np.interp(r - preemptible, knots, busy) + x - preemptible
    return float(joint.weight @ (np.interp(r, joint.knots, waiting) + residence))


def _load(joint: JointDensity, arrival_rate: float) -> float:
    """rho = lambda E[X]."""
    rho = arrival_rate * joint.mean_size
    if not 0 < rho < 1:
        raise ValueError(
            f"arrival_rate times the mean size must be above 0 and below 1 for a steady state, "
            f"not {rho:g} (arrival_rate {arrival_rate:g}, mean size {joint.mean_size:g})"
        )
    return rho
