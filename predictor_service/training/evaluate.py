"""Chooses the refinement's parameters on validation prompts and measures everything on test prompts."""

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from predictor_service.bins import Bins
from predictor_service.training.collect import Responses
from predictor_service.training.fit import Stream
from predictor_service.training.labels import Floats, Ints
from predictor_service.training.metrics import Estimate, kendall, mean_per_request, report
from predictor_service.training.refinement import Refinement, refine

TAUS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
FLOORS = (1e-6, 1e-4, 1e-3)


@dataclass(frozen=True)
class Scale:
    """What turns bin probabilities into tokens, as the service does, and the cap that every request has."""

    bins: Bins
    max_tokens: int

    def mean(self, q: Floats, age: Ints) -> Floats:
        """Mean remaining length [rows], tokens, at most what the cap leaves."""
        return np.minimum(self.bins.mean(q), self.max_tokens - age)

    def quantile(self, q: Floats, at: float, age: Ints) -> Floats:
        return np.minimum(self.bins.quantile(q, at), self.max_tokens - age)


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
    seen = np.clip((scale.max_tokens - age)[:, None] - edges[:-1], 0, np.diff(edges))
    ended = remaining[:, None] < np.minimum(edges[1:], (scale.max_tokens - age)[:, None])
    return np.asarray((seen * (np.cumsum(q, axis=1)[:, :-1] - ended) ** 2).sum(axis=1))


def choose(
    stream: Stream, responses: Responses, start: Refinement, scale: Scale
) -> tuple[Refinement, list[dict[str, float]]]:
    """The chosen (tau, floor), and all tried with their scores, each request counting the same.

    The scheduler ranks by the mean, whose error hardly depends on tau; intervals do. So: the least ranked score
    among those whose error of the mean is within one paired standard error of the least.
    """
    truth, request, age = remaining_of(stream, responses), request_of(stream), stream.age

    def per_request(values: Floats) -> Floats:
        return np.asarray(np.bincount(request, values) / np.bincount(request))

    tried, errors = [], []
    for tau, floor in product(TAUS, FLOORS):
        q = refine(stream.probabilities, age, replace(start, tau=tau, floor=floor))
        errors.append(per_request(np.abs(scale.mean(q, age) - truth)))
        score = float(per_request(ranked_score(q, truth, age, scale)).mean())
        tried.append({"tau": tau, "floor": floor, "ranked_score": score, "mae_mean": float(errors[-1].mean())})
    least = min(errors, key=lambda error: float(error.mean()))
    excess = [error - least for error in errors]
    close = [bool(e.mean() <= e.std() / np.sqrt(len(e))) for e in excess]
    best = min((one for one, near in zip(tried, close, strict=True) if near), key=lambda one: one["ranked_score"])
    return replace(start, tau=best["tau"], floor=best["floor"]), tried


def measure(
    stream: Stream, responses: Responses, chosen: Refinement, scale: Scale, prompt: Floats, constant: float
) -> dict[str, Any]:
    """Metrics on held-out requests. ``prompt`` [requests, bins]: prompt predictor; ``constant``: tokens."""
    truth, request, age = remaining_of(stream, responses), request_of(stream), stream.age
    unrefined = stream.probabilities.astype(np.float64)
    refined = refine(stream.probabilities, age, chosen)
    declared = scale.mean(prompt, np.zeros(len(prompt), dtype=np.int64))
    first = age == 0
    r1 = scale.mean(unrefined[first], age[first])
    predictions: dict[str, Floats] = {"constant_median": np.minimum(constant, scale.max_tokens - age)}
    intervals: dict[str, tuple[Floats, Floats]] = {}
    predictions["constant_median_uncapped"] = np.full(len(age), constant)
    # Without refinement from hidden states a prediction can only count down, and a living request has one to come.
    predictions["prompt_countdown"] = np.maximum(declared[request] - age, 1)
    predictions["prefill_countdown"] = np.maximum(r1[request] - age, 1)
    for name, q in (("unrefined", unrefined), ("refined", refined)):
        predictions[f"{name}_mean"] = scale.mean(q, age)
        predictions[f"{name}_median"] = scale.quantile(q, 0.5, age)
        predictions[f"{name}_mean_uncapped"] = scale.bins.mean(q)
        predictions[f"{name}_median_uncapped"] = scale.bins.quantile(q, 0.5)
        intervals[f"{name}_interval_10_90"] = (scale.quantile(q, 0.1, age), scale.quantile(q, 0.9, age))
    return {
        "remaining": report(predictions, intervals, truth, request),
        "total": {
            "prompt": _total(declared, truth[first]),
            "prefill": _total(r1, truth[first]),
        },
    }


def _total(predicted: Floats, truth: Floats) -> dict[str, Estimate]:
    every = np.arange(len(truth))
    return {
        "mae": mean_per_request(np.abs(predicted - truth), every),
        "kendall_tau": kendall([predicted], [truth]),
    }
