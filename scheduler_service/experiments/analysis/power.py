"""How many pairs an experiment needs, before it starts."""

from __future__ import annotations

import math

import numpy as np

from scheduler_service.experiments.analysis.pairs import Floats
from scheduler_service.experiments.analysis.sequence import log_evidence, tuned

RUNS = 2000
MOST_PAIRS = 20_000
_Z_80 = 0.8416


def power(effect: float, noise: Floats | float, pairs: int, alpha: float, seed: int = 0) -> float:
    """How likely a difference of `effect` (a log ratio, or a difference) is found within so many pairs.

    `noise` is the standard deviation of a pair's difference, or differences [M] as measured where arms did not differ,
    of which it draws with signs of its own.
    """
    found = _found_after(effect, noise, pairs, alpha, seed)
    return float((found <= pairs).mean())


def pairs_needed(effect: float, noise: Floats | float, alpha: float, wanted: float, seed: int = 0) -> int | None:
    """The fewest pairs (to within 3 %) with that power; None where 20,000 do not do."""
    low, high = 1, 8
    while power(effect, noise, high, alpha, seed) < wanted:
        low, high = high, 2 * high
        if high > MOST_PAIRS:
            return None
    while high - low > max(1, low // 32):
        middle = (low + high) // 2
        low, high = (low, middle) if power(effect, noise, middle, alpha, seed) >= wanted else (middle, high)
    return high


def cautious(differences: Floats) -> Floats:
    """[M] the same, as far apart as they may well be in truth: their standard deviation is the upper end of an 80 %
    interval, for what is planned by a pilot of M pairs is no better known than that (chi-squared, by Wilson and
    Hilferty)."""
    count = len(differences)
    part = 2 / (9 * count)
    scaled: Floats = differences * (1 - part - _Z_80 * math.sqrt(part)) ** -1.5
    return scaled


def deviation(noise: Floats | float) -> float:
    """Around 0, for neither sign is the likelier."""
    return float(np.sqrt(np.mean(np.square(noise)))) if isinstance(noise, np.ndarray) else noise


def _found_after(effect: float, noise: Floats | float, pairs: int, alpha: float, seed: int) -> Floats:
    """[RUNS] the pair at which no difference was refuted, towards the right side; infinite: not within `pairs`."""
    rng = np.random.default_rng([seed, pairs])
    total, squares = np.zeros(RUNS), np.zeros(RUNS)
    found = np.full(RUNS, np.inf)
    tuning = tuned(pairs, deviation(noise), alpha)
    for at in range(1, pairs + 1):
        drawn = np.clip(effect + _drawn(noise, rng), -tuning.clip, tuning.clip)
        total += drawn
        squares += drawn**2
        hit = (
            (log_evidence(total, squares, tuning.rho) >= -math.log(alpha))
            & (np.sign(total) == np.sign(effect))
            & np.isinf(found)
        )
        found[hit] = at
    return found


def _drawn(noise: Floats | float, rng: np.random.Generator) -> Floats:
    if isinstance(noise, np.ndarray):
        drawn: Floats = rng.choice(noise, RUNS) * rng.choice([-1.0, 1.0], RUNS)
        return drawn
    return rng.normal(0.0, noise, RUNS)
