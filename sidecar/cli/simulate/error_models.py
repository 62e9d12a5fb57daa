"""Predictors that err in known ways; what a real one errs is in ``confusion``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sidecar.cli.simulate.predictions import LEAST_TOKENS, Lengths, Paths, persistent_scores, spread
from sidecar.cli.simulate.workload import Floats, Ints

TENTH = 1.2815515655446004
"""Nine tenths of the standard normal are below this."""


@dataclass(frozen=True, slots=True)
class Oracle:
    """Always right."""

    def paths(self, output_tokens: Ints, rng: np.random.Generator) -> Paths:
        return _counted_down(output_tokens, Lengths.exact(output_tokens.astype(np.float64)))


@dataclass(frozen=True, slots=True)
class LogNormal:
    """One total for life: the true one times exp(sigma * z), z standard normal. It is counted down by age, and what is
    left of it at the end is one token."""

    sigma: float

    def paths(self, output_tokens: Ints, rng: np.random.Generator) -> Paths:
        total = output_tokens * np.exp(self.sigma * rng.standard_normal(len(output_tokens)))
        return _counted_down(output_tokens, _around(total, self.sigma))


@dataclass(frozen=True, slots=True)
class Refined:
    """The true remaining length times exp(sigma * z), with errors that a predictor renews: z wanders, and forgets
    itself by ``lag1`` a token. The prompt stage's error is independent of the later ones."""

    sigma: float
    lag1: float = 0.98

    def paths(self, output_tokens: Ints, rng: np.random.Generator) -> Paths:
        at_prompt, scores = persistent_scores(output_tokens, rng, self.lag1, 0.0, 0.0)
        start, request, age = spread(output_tokens)
        total = _around(output_tokens * np.exp(self.sigma * at_prompt), self.sigma)
        return Paths(start, total, _around((output_tokens[request] - age) * np.exp(self.sigma * scores), self.sigma))


@dataclass(frozen=True, slots=True)
class Shuffled:
    """Right of another request: lengths as they are, in an order that means nothing."""

    def paths(self, output_tokens: Ints, rng: np.random.Generator) -> Paths:
        return _counted_down(output_tokens, Lengths.exact(rng.permutation(output_tokens).astype(np.float64)))


def _around(median: Floats, sigma: float) -> Lengths:
    """What a log-normal of this median says, nothing below one token."""
    factors = np.exp(sigma**2 / 2), 1.0, np.exp(-TENTH * sigma), np.exp(TENTH * sigma)
    return Lengths(*(np.maximum(median * factor, LEAST_TOKENS) for factor in factors))


def _counted_down(output_tokens: Ints, total: Lengths) -> Paths:
    """Totals less age, but never below one token."""
    start, request, age = spread(output_tokens)
    named = total.mean, total.median, total.p10, total.p90
    return Paths(start, total, Lengths(*(np.maximum(each[request] - age, LEAST_TOKENS) for each in named)))
