"""The figures of one prediction, over all positions and group by group."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from predictor_service.evaluation import calibration
from predictor_service.evaluation.metrics import Estimate, snapshots
from predictor_service.evaluation.predicted import Names, Predicted, Requests
from predictor_service.evaluation.resampling import Sample, estimate, mean_of
from predictor_service.training.labels import Floats, Ints

Figures = dict[str, Estimate]

SNAPSHOTS = 8
LEAST_REQUESTS = 5  # fewer say nothing about a group
TOP_VERBS = 12
BUCKETS = 0, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192


@dataclass(frozen=True)
class Group:
    """Positions that have something in common; the figures are of these alone."""

    name: str
    requests: int
    figures: Figures


def measure(predicted: Predicted, prompt: Ints, level_of: Floats | None = None) -> Figures:
    """All figures over the positions of ``predicted``, requests counting the same, prompts being drawn again.

    ``prompt`` [requests]; ``level_of`` [rows] from `calibration.levels`. Errors in tokens. The median is the point
    prediction, for it minimises the absolute error; figures of the mean are named so. `kendall_tau_snapshot` is over
    one random position a request, averaged over 8 draws.
    """
    sample = Sample.of(predicted.request, prompt[predicted.request])
    error = np.abs(predicted.median - predicted.truth)
    nominal, is_below = calibration.below(predicted, level_of)
    drawn = {
        "mae_tokens": sample.mean(error),
        "mae_of_mean_tokens": sample.mean(np.abs(predicted.mean - predicted.truth)),
        "median_ae_tokens": sample.median(error),
        "kendall_tau": sample.tau(predicted.median, predicted.truth),
        "kendall_tau_of_mean": sample.tau(predicted.mean, predicted.truth),
        "kendall_tau_snapshot": _snapshot_tau(predicted, prompt),
        "coverage_80": sample.mean(calibration.coverage(predicted)),
        "ece": calibration.expected_calibration_error(sample.mean(is_below), nominal),
        "ece_of_steps": calibration.expected_calibration_error(_mean_of_steps(sample, is_below, predicted), nominal),
        "pinball_tokens": sample.mean(calibration.pinball(predicted)),
    }
    return {name: estimate(values) for name, values in drawn.items()}


def measure_prompt(r0: Floats, requests: Requests) -> Figures:
    """Figures of the total length [requests] that was predicted from the prompt alone."""
    sample = Sample.of(np.arange(len(requests)), requests.prompt)
    length = requests.length.astype(np.float64)
    return {
        "mae_tokens": estimate(sample.mean(np.abs(r0 - length))),
        "median_ae_tokens": estimate(sample.median(np.abs(r0 - length))),
        "kendall_tau": estimate(sample.tau(r0, length)),
    }


def breakdown(
    predicted: Predicted,
    requests: Requests,
    level_of: Floats | None = None,
    by: Sequence[str] = ("age", "true length", "verb", "source"),
) -> dict[str, list[Group]]:
    """Figures of the groups that positions fall into; those of fewer than five requests are left out."""
    of_row = {
        "age": _buckets(predicted.age),
        "true length": _buckets(requests.length[predicted.request]),
        "verb": _most_frequent(requests.verb)[predicted.request],
        "source": requests.source[predicted.request],
    }
    return {name: list(_groups(predicted, requests, level_of, of_row[name])) for name in by}


def _groups(predicted: Predicted, requests: Requests, level_of: Floats | None, of_row: Names) -> Iterator[Group]:
    for name in _in_order(of_row):
        rows = np.flatnonzero(of_row == name)
        count = len(np.unique(predicted.request[rows]))
        if count >= LEAST_REQUESTS:
            part = None if level_of is None else level_of[rows]
            yield Group(name, count, measure(predicted.take(rows), requests.prompt, part))


def _mean_of_steps(sample: Sample, values: Floats, predicted: Predicted) -> Floats:
    """Mean [1 + draws, k] of values [rows, k] where a request weighs as many times as it has steps."""
    steps = predicted.age + predicted.truth
    return np.asarray(sample.mean(values * steps[:, None]) / sample.mean(steps)[:, None])


def _snapshot_tau(predicted: Predicted, prompt: Ints) -> Floats:
    own = np.unique(predicted.request, return_inverse=True)[1]
    drawn = []
    for look in snapshots(own, SNAPSHOTS, seed=0):
        request = predicted.request[look]
        drawn.append(Sample.of(request, prompt[request]).tau(predicted.median[look], predicted.truth[look]))
    return mean_of(drawn)


def _buckets(tokens: Ints) -> Names:
    """Name of the power-of-two bucket of each [rows], as "64-127"."""
    names = np.array([*(f"{a}-{b - 1}" for a, b in zip(BUCKETS, BUCKETS[1:], strict=False)), f"{BUCKETS[-1]}+"])
    return np.asarray(names[np.searchsorted(BUCKETS, tokens, side="right") - 1])


def _most_frequent(verbs: Names) -> Names:
    """The twelve most frequent; the others become "other"."""
    values, counts = np.unique(verbs, return_counts=True)
    top = values[np.argsort(-counts, kind="stable")][:TOP_VERBS]
    return np.where(np.isin(verbs, top), verbs, "other")


def _in_order(names: Names) -> list[str]:
    """Distinct names: buckets by their edge, others by how many rows they have."""
    values, counts = np.unique(names, return_counts=True)
    keys = [(_edge(str(value)), -int(count), str(value)) for value, count in zip(values, counts, strict=True)]
    return [name for _, _, name in sorted(keys)]


def _edge(name: str) -> int:
    start = name.rstrip("+").split("-")[0]
    return int(start) if start.isdigit() else -1


def without_intervals(figures: Mapping[str, Estimate]) -> dict[str, float]:
    """The figures without their intervals."""
    return {name: figure["value"] for name, figure in figures.items()}
