"""How good predictions are on held-out requests, each figure with a 95 % interval from resampling requests."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from predictor_service.training.labels import Floats, Ints

Estimate = dict[str, float]
Signs = NDArray[np.float32]
RESAMPLES = 500


def _estimate(statistic: Callable[[Floats], float], requests: int, seed: int = 0) -> Estimate:
    """Value and 95 % bootstrap interval of a statistic of request multiplicities [requests]."""
    rng = np.random.default_rng(seed)
    drawn = [
        statistic(rng.multinomial(requests, np.full(requests, 1 / requests)).astype(np.float64))
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    value = statistic(np.ones(requests))
    return {"value": round(value, 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def mean_per_request(values: Floats, request: Ints) -> Estimate:
    """Every request counts the same: the mean of each request's own mean. ``request`` [rows] is 0..n-1."""
    means = np.bincount(request, values) / np.bincount(request)
    return _estimate(lambda times: float(times @ means / times.sum()), len(means))


def mean_per_step(values: Floats, request: Ints) -> Estimate:
    """Every decode step counts the same, so long requests count more."""
    sums, counts = np.bincount(request, values), np.bincount(request)
    return _estimate(lambda times: float(times @ sums / (times @ counts)), len(sums))


def kendall(predicted: Sequence[Floats], true: Sequence[Floats]) -> Estimate:
    """Kendall's tau-b over pairs of requests [requests], averaged over several snapshots of them."""
    pairs = [_pairs(p, t) for p, t in zip(predicted, true, strict=True)]
    return _estimate(lambda times: float(np.mean([_weighted_tau(*three, times) for three in pairs])), len(predicted[0]))


def _pairs(predicted: Floats, true: Floats) -> tuple[Signs, Signs, Signs]:
    """Over pairs of requests [requests, requests]: concordance, and whether each side tells them apart."""
    a, b = (np.sign(v[:, None] - v[None, :]).astype(np.float32) for v in (predicted, true))
    return a * b, np.abs(a), np.abs(b)


def _weighted_tau(concordance: Signs, apart: Signs, truly_apart: Signs, times: Floats) -> float:
    weights = times.astype(np.float32)
    agreement, ours, theirs = (float(weights @ (pairs @ weights)) for pairs in (concordance, apart, truly_apart))
    return agreement / max(float(np.sqrt(ours * theirs)), 1.0)


def snapshots(request: Ints, count: int, seed: int) -> list[Ints]:
    """``count`` times one random row of each request: which decode steps a scheduler could have to rank."""
    rng = np.random.default_rng(seed)
    sizes = np.bincount(request)
    start = np.cumsum(sizes) - sizes
    return [start + (rng.random(len(sizes)) * sizes).astype(np.int64) for _ in range(count)]


def report(
    predictions: Mapping[str, Floats], intervals: Mapping[str, tuple[Floats, Floats]], truth: Floats, request: Ints
) -> dict[str, dict[str, Estimate]]:
    """Error, ranking and coverage of each named prediction of ``truth`` [rows]; rows of a request are adjacent."""
    looks = snapshots(request, count=8, seed=0)
    out: dict[str, dict[str, Estimate]] = {}
    for name, predicted in predictions.items():
        error = np.abs(predicted - truth)
        out[name] = {"mae_per_request": mean_per_request(error, request), "mae_per_step": mean_per_step(error, request)}
        out[name]["kendall_tau"] = kendall([predicted[look] for look in looks], [truth[look] for look in looks])
    for name, (low, high) in intervals.items():
        inside = ((low <= truth) & (truth <= high)).astype(np.float64)
        out[name] = {
            "coverage_per_request": mean_per_request(inside, request),
            "coverage_per_step": mean_per_step(inside, request),
        }
    return out
