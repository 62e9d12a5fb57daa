"""Replays whole streams of classifier outputs through the service's own posterior, one token at a time."""

from dataclasses import dataclass

import numpy as np

from predictor_service.posterior import Evidence, Transition
from predictor_service.training.labels import Floats, Ints
from predictor_service.training.networks import Array


@dataclass(frozen=True)
class Refinement:
    """Parameters of the posterior (DESIGN, Predictor), as the manifest holds them."""

    rates: Floats  # [bins] chance per token of moving one bin down
    prior: Floats  # [bins] training frequency of each bin
    tau: float
    floor: float
    forgetting: float = 1.0
    absorbing: bool = False


def refine(p: Array, age: Ints, by: Refinement, every: int = 1) -> Floats:
    """Posteriors [rows, bins] of streams laid end to end, each with every age from 0 on.

    With ``every`` K > 1 only ages that K divides are looked at; the rows between hold the posterior of the last one.
    """
    transition = Transition(by.rates, absorbing=by.absorbing)
    evidence = Evidence(by.prior, by.tau, by.floor, by.forgetting)
    start = np.flatnonzero(age == 0)
    length = np.diff(np.append(start, len(age)))
    q = evidence.start(p.astype(np.float64))
    for now in range(1, int(length.max())):
        rows = start[length > now] + now
        if now % every:
            q[rows] = q[rows - 1]
            continue
        moved = transition.advance(q[rows - 1], np.full(len(rows), every))
        q[rows] = evidence.update(moved, p[rows].astype(np.float64))
    return q
