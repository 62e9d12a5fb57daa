"""A real predictor's errors: what it said of requests of a known remaining length, by their age.

``confusion.json`` in an artefact's folder holds, for each age bucket A and bin R of true remaining tokens, quantiles
of the ratio predicted / true, of the median, p10 and p90; for the prompt stage the same by bins of the true total; and
how errors persist along a request.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sidecar.cli.simulate.errors import SimulateError
from sidecar.cli.simulate.normal import level_of
from sidecar.cli.simulate.predictions import LEAST_TOKENS, Lengths, Paths, persistent_scores, spread
from sidecar.cli.simulate.workload import Floats, Ints

FILE_NAME = "confusion.json"
FORMAT = 1
NAMES = "median", "p10", "p90"

Table = Floats


@dataclass(frozen=True, slots=True, eq=False)
class Confusion:
    """Edges are the lower ends of buckets and bins, the first 0 and the last open; ``levels`` [L] rise within 0 to 1.

    ``remaining[name]`` [A, R, L] and ``total[name]`` [R, L] are natural logarithms of predicted / true. Errors g
    tokens apart in one request correlate by ``share + (1 - share) * lag1**g``, the prompt stage's with the first
    one by ``with_prompt``.
    """

    age_edges: Ints
    length_edges: Ints
    levels: Floats
    remaining: dict[str, Table]
    total: dict[str, Table]
    lag1: float
    share: float
    with_prompt: float


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """Predictions that err as the measured ones did."""

    confusion: Confusion

    def paths(self, output_tokens: Ints, rng: np.random.Generator) -> Paths:
        known = self.confusion
        at_prompt, scores = persistent_scores(output_tokens, rng, known.lag1, known.share, known.with_prompt)
        start, request, age = spread(output_tokens)
        left = output_tokens[request] - age
        by_age = bin_of(known.age_edges, age)
        total = [_sample(known.total[name][None], np.zeros_like(output_tokens), output_tokens, at_prompt, known)
                 for name in NAMES]  # fmt: skip
        remaining = [_sample(known.remaining[name], by_age, left, scores, known) for name in NAMES]
        return Paths(start, _ordered(*total), _ordered(*remaining))


def _sample(table: Table, by_age: Ints, true_tokens: Ints, scores: Floats, known: Confusion) -> Floats:
    """Predicted lengths [T] for true ones [T], at the quantiles that standard normal ``scores`` [T] stand for."""
    level = np.clip(level_of(scores), known.levels[0], known.levels[-1])
    above = np.clip(np.searchsorted(known.levels, level), 1, len(known.levels) - 1)
    low, high = known.levels[above - 1], known.levels[above]
    weight = (level - low) / (high - low)
    by_length = bin_of(known.length_edges, true_tokens)
    log_ratio = (1 - weight) * table[by_age, by_length, above - 1] + weight * table[by_age, by_length, above]
    predicted: Floats = np.maximum(true_tokens * np.exp(log_ratio), LEAST_TOKENS)
    return predicted


def _ordered(median: Floats, p10: Floats, p90: Floats) -> Lengths:
    return Lengths.of_quantiles(median, np.minimum(p10, median), np.maximum(p90, median))


def bin_of(edges: Ints, values: Ints) -> Ints:
    """Which bucket each value is in."""
    found: Ints = np.searchsorted(edges, values, side="right") - 1
    return found


def load_confusion(folder: Path) -> Confusion:
    """Reads the confusion of the artefact in ``folder``.

    Raises:
        SimulateError: there is none, or it is not one of this format.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise SimulateError(
            f"--predictions measured:{folder}: no {FILE_NAME} there; `trail evaluate --out {folder}` writes it"
        )
    try:
        return confusion_of(json.loads(path.read_text()))
    except (ValueError, KeyError, TypeError) as error:
        raise SimulateError(f"{path}: {type(error).__name__}: {error}") from None


def confusion_of(given: Any) -> Confusion:
    """The confusion that a JSON object describes. Raises ValueError, KeyError or TypeError where it describes none."""
    if given["format"] != FORMAT:
        raise ValueError(f"format: {given['format']} is not {FORMAT}")
    age_edges, length_edges = np.array(given["age_edges"], np.int64), np.array(given["length_edges"], np.int64)
    levels = np.array(given["levels"], np.float64)
    shapes = (len(age_edges), len(length_edges), len(levels)), (len(length_edges), len(levels))
    tables = []
    for part, shape in zip(("remaining", "total"), shapes, strict=True):
        tables.append({name: np.array(given[part][name], np.float64) for name in NAMES})
        for name, table in tables[-1].items():
            if table.shape != shape or not np.isfinite(table).all():
                raise ValueError(f"{part}.{name}: not finite numbers of shape {shape}")
    for name, edges in (("age_edges", age_edges), ("length_edges", length_edges), ("levels", levels)):
        if len(edges) < 1 or (np.diff(edges) <= 0).any() or (name != "levels" and edges[0] != 0):
            raise ValueError(f"{name}: must rise, edges from 0")
    lag1, share, with_prompt = (float(given["persistence"][name]) for name in ("lag1", "share", "with_prompt"))
    if len(levels) < 2 or not (0 <= lag1 <= 1 and 0 <= share <= 1 and -1 <= with_prompt <= 1):
        raise ValueError("levels: two or more; persistence: within 0 to 1")
    remaining, total = tables
    return Confusion(age_edges, length_edges, levels, remaining, total, lag1, share, with_prompt)


def as_json(confusion: Confusion) -> dict[str, Any]:
    """What ``confusion_of`` reads."""
    return {
        "format": FORMAT,
        "what": "natural logarithm of predicted / true tokens: quantiles by age and true length, and its persistence",
        "age_edges": confusion.age_edges.tolist(),
        "length_edges": confusion.length_edges.tolist(),
        "levels": confusion.levels.tolist(),
        "remaining": {name: np.round(table, 4).tolist() for name, table in confusion.remaining.items()},
        "total": {name: np.round(table, 4).tolist() for name, table in confusion.total.items()},
        "persistence": {"lag1": confusion.lag1, "share": confusion.share, "with_prompt": confusion.with_prompt},
    }
