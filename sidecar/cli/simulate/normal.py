"""The standard normal distribution on arrays, from a table that is finer than any measured quantile."""

from __future__ import annotations

import numpy as np

from sidecar.cli.simulate.workload import Floats

_SCORES = np.linspace(-4.5, 4.5, 4097)
_DENSITY = np.exp(-(_SCORES**2) / 2)
_AREA = np.concatenate([[0.0], np.cumsum((_DENSITY[1:] + _DENSITY[:-1]) / 2)])
_LEVELS = _AREA / _AREA[-1]


def level_of(score: Floats) -> Floats:
    """Share of the distribution below each score."""
    level: Floats = np.interp(score, _SCORES, _LEVELS)
    return level


def score_of(level: Floats) -> Floats:
    """The scores below which these shares of the distribution are."""
    score: Floats = np.interp(level, _LEVELS, _SCORES)
    return score
