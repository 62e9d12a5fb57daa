"""Chooses the refinement's parameters on validation prompts; every request counts the same."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np

from predictor_service.bins import Bins
from predictor_service.training.collect import Responses
from predictor_service.training.fit import Stream
from predictor_service.training.labels import Floats, Ints
from predictor_service.training.refinement import Refinement, refine

TAUS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
FLOORS = (1e-6, 1e-4, 1e-3)
# How much of tau the past gives up: 0 is Bayes with tempered evidence, 1 the logarithmic opinion pool.
GIVEN_UP = (0.0, 0.5, 1.0)
COVERAGE = 0.8


@dataclass(frozen=True)
class Scale:
    """What turns bin probabilities into tokens, as the service does, and the cap that every request has."""

    bins: Bins
    max_tokens: int

    def left(self, age: Ints) -> Floats:
        """What the cap leaves [rows], tokens, at least 1 of a living request."""
        return np.maximum(self.max_tokens - age, 1).astype(np.float64)

    def mean(self, q: Floats, age: Ints) -> Floats:
        """Mean remaining length [rows], tokens."""
        return self.bins.mean(q, self.left(age))

    def quantile(self, q: Floats, at: float, age: Ints) -> Floats:
        """Length not exceeded with probability ``at`` [rows], tokens."""
        return np.minimum(self.bins.quantile(q, at), self.left(age))


@dataclass(frozen=True)
class Tried:
    """One setting of the refinement and how it did on validation; errors in tokens."""

    tau: float
    forgetting: float
    floor: float
    ranked_score: float
    mae_mean: float
    mae_median: float


def remaining_of(stream: Stream, responses: Responses) -> Floats:
    """Tokens that really came after each row [rows]; a cut response ends at the cap, where the engine stops it."""
    return (responses.lengths[stream.response] - stream.age).astype(np.float64)


def request_of(stream: Stream) -> Ints:
    """Number of the request of each row [rows], 0..n-1."""
    return np.cumsum(stream.age == 0) - 1


def ranked_score(q: Floats, remaining: Floats, age: Ints, scale: Scale) -> Floats:
    """Continuous ranked probability score [rows], tokens: int (F(x) - [remaining <= x])^2 dx up to the cap.

    Proper, so neither bold nor vague distributions are favoured; the integral stops where a response is cut,
    beyond which nothing was seen. F is taken at the upper edge of each closed bin.
    """
    edges = scale.bins.edges
    left = (scale.max_tokens - age)[:, None]
    seen = np.clip(left - edges[:-1], 0, np.diff(edges))
    ended = remaining[:, None] < np.minimum(edges[1:], left)
    return np.asarray((seen * (np.cumsum(q, axis=1)[:, :-1] - ended) ** 2).sum(axis=1))


def choose(stream: Stream, responses: Responses, start: Refinement, scale: Scale) -> tuple[Refinement, list[Tried]]:
    """The setting with the least ranked score, and all that were tried, best first."""
    truth, request, age = remaining_of(stream, responses), request_of(stream), stream.age

    def mean(values: Floats) -> float:
        return float((np.bincount(request, values) / np.bincount(request)).mean())

    tried = []
    for by in _settings(start):
        q = refine(stream.probabilities, age, by)
        tried.append(
            Tried(
                by.tau,
                by.forgetting,
                by.floor,
                ranked_score=mean(ranked_score(q, truth, age, scale)),
                mae_mean=mean(np.abs(scale.mean(q, age) - truth)),
                mae_median=mean(np.abs(scale.quantile(q, 0.5, age) - truth)),
            )
        )
    tried.sort(key=lambda one: one.ranked_score)
    best = tried[0]
    return replace(start, tau=best.tau, forgetting=best.forgetting, floor=best.floor), tried


def _settings(start: Refinement) -> Iterator[Refinement]:
    for tau in TAUS:
        for given_up in GIVEN_UP:
            if tau == 1.0 and given_up == 1.0:
                # Forgets everything: the classifier alone, where the floor is all that is left to choose.
                yield replace(start, tau=tau, forgetting=0.0, floor=FLOORS[0])
                continue
            for floor in FLOORS:
                yield replace(start, tau=tau, forgetting=round(1 - given_up * tau, 6), floor=floor)


def interval_levels(q: Floats, truth: Floats, request: Ints, age: Ints, scale: Scale) -> tuple[float, float]:
    """Quantile levels, as far from 0 as from 1, whose interval holds 80 % of the truth on these rows.

    Split conformal prediction with the level as the score: what is said to hold 80 % did so on prompts that
    the classifier had not seen. Requests count the same; found by bisection.
    """
    weight = 1 / np.bincount(request)[request]

    def coverage(tail: float) -> float:
        low, high = scale.quantile(q, tail, age), scale.quantile(q, 1 - tail, age)
        return float(np.average((low <= truth) & (truth <= high), weights=weight))

    widest, narrowest = 1e-3, 0.499
    for _ in range(20):
        tail = (widest + narrowest) / 2
        widest, narrowest = (tail, narrowest) if coverage(tail) >= COVERAGE else (widest, tail)
    return round(widest, 4), round(1 - widest, 4)


def as_rows(tried: list[Tried]) -> list[dict[str, float]]:
    """For a manifest or a table."""
    return [{name: round(value, 6) for name, value in asdict(one).items()} for one in tried]
