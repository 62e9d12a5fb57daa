"""A predictor's confusion from what an evaluation recorded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sidecar.cli.simulate.confusion import FILE_NAME, NAMES, Confusion, Table, as_json, bin_of
from sidecar.cli.simulate.normal import score_of
from sidecar.cli.simulate.persistence import Persistence, fit_persistence
from sidecar.cli.simulate.workload import Floats, Ints

AGE_EDGES = (0, 1, 4, 16, 64, 128, 256, 512, 1024)
LENGTH_EDGES = (0, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 8192)
LEVELS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
LEAST_ROWS = 30
"""A bin of fewer rows takes the quantiles of its neighbours."""


@dataclass(frozen=True, slots=True, eq=False)
class Observed:
    """What was predicted, arrays [rows], and what came true; lengths in tokens.

    ``request`` [rows] counts from 0; ``remaining`` is the truth after ``age``. ``r0`` [requests] is the total that the
    prompt stage predicted, a median.
    """

    request: Ints
    age: Ints
    remaining: Floats
    median: Floats
    p10: Floats
    p90: Floats
    r0: Floats


def fit_confusion(observed: Observed) -> Confusion:
    """Quantiles of predicted / true by age and true length, and how errors persist along a request.

    The prompt stage told only its median: its p10 and p90 are taken to be as far from that as those of age 0, or of
    the youngest ages there are.

    Raises:
        ValueError: no rows, or a length that is not finite.
    """
    lengths = np.stack([observed.remaining, observed.median, observed.p10, observed.p90])
    if not lengths.size or not np.isfinite(lengths).all() or not np.isfinite(observed.r0).all():
        raise ValueError("needs rows of finite lengths")
    true = np.maximum(observed.remaining, 1.0)
    age_edges = np.array([edge for edge in AGE_EDGES if edge <= observed.age.max()])
    total, first = _totals(observed)
    length_edges = np.array([edge for edge in LENGTH_EDGES if edge <= max(true.max(), total.max())])
    levels = np.array(LEVELS)
    by_age, by_length = bin_of(age_edges, observed.age), bin_of(length_edges, true.astype(np.int64))
    log_ratio = {name: np.log(np.maximum(getattr(observed, name), 1.0) / true) for name in NAMES}
    shape = len(age_edges), len(length_edges)
    remaining = {name: _quantiles(ratio, by_age, by_length, shape, levels) for name, ratio in log_ratio.items()}

    r0_ratio = np.log(np.maximum(observed.r0, 1.0) / total)
    by_total = bin_of(length_edges, total.astype(np.int64))
    once = np.zeros_like(by_total)
    of_r0 = _quantiles(r0_ratio, once, by_total, (1, len(length_edges)), levels)[0]
    young = observed.age == observed.age.min()
    width = {name: float(np.median((log_ratio[name] - log_ratio["median"])[young])) for name in NAMES}

    cell = by_age * len(length_edges) + by_length
    scores, at_prompt = _scores(log_ratio["median"], cell), _scores(r0_ratio, by_total)
    persists: Persistence = fit_persistence(observed.request, observed.age, scores)
    with_prompt = float(np.corrcoef(at_prompt, scores[first])[0, 1]) if len(first) > 2 else 0.0
    return Confusion(
        age_edges,
        length_edges,
        levels,
        remaining,
        {name: of_r0 + width[name] for name in NAMES},
        persists.lag1,
        persists.share,
        with_prompt if np.isfinite(with_prompt) else 0.0,
    )


def write_confusion(folder: Path, served: Any, r0: Floats) -> None:
    """Writes an evaluation's confusion (``served``: a ``Predicted``), for ``--predictions measured:FOLDER``."""
    at = Observed(served.request, served.age, served.truth, served.median, served.p10, served.p90, r0)
    (folder / FILE_NAME).write_text(json.dumps(as_json(fit_confusion(at))) + "\n")


def _totals(observed: Observed) -> tuple[Floats, Ints]:
    """True total [requests] and the row of each request's youngest age. Raises ValueError where a request has none."""
    order = np.lexsort((observed.age, observed.request))
    numbers, at = np.unique(observed.request[order], return_index=True)
    if len(numbers) != len(observed.r0) or (numbers != np.arange(len(numbers))).any():
        raise ValueError(f"{len(observed.r0)} requests have an r0, and {len(numbers)} have rows")
    first = order[at]
    return np.maximum(observed.remaining[first] + observed.age[first], 1.0), first


def _quantiles(values: Floats, by_age: Ints, by_length: Ints, shape: tuple[int, int], levels: Floats) -> Table:
    """[A, R, L] quantiles of each cell; thin cells take in the cells of other ages, then other lengths, nearest
    first, until they have rows enough."""
    table = np.zeros((*shape, len(levels)))
    for age in range(shape[0]):
        for length in range(shape[1]):
            distance = np.abs(by_length - length) * shape[0] + np.abs(by_age - age)
            near = values[distance == 0]
            if near.size < LEAST_ROWS:
                nearest = np.sort(distance)[:LEAST_ROWS][-1]
                near = values[distance <= nearest]
            table[age, length] = np.quantile(near, levels)
    return table


def _scores(values: Floats, cell: Ints) -> Floats:
    """Normal scores of the values' ranks, each among those of its cell."""
    order = np.lexsort((values, cell))
    numbers, start, count = np.unique(cell[order], return_index=True, return_counts=True)
    which = np.repeat(np.arange(len(numbers)), count)
    rank = np.empty(len(values))
    rank[order] = (np.arange(len(values)) - start[which] + 0.5) / count[which]
    return score_of(rank)
