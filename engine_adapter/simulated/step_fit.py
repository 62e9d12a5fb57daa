"""Fits the step-time model to measured steps."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engine_adapter.simulated.step_time import StepTime, beyond_graphs

Floats = npt.NDArray[np.float64]
PAUSE_FACTOR = 3.0
GRAPH_TOKENS = (32, 64, 128, 256, 512, 1024)
"""Sizes up to which engines capture graphs; the one that fits best is taken."""
FIELDS = ("batch", "prefill_tokens", "kv_tokens", "duration_s")


@dataclass(frozen=True, slots=True)
class StepFit:
    """The model, and how well it tells the steps it was fitted to: ``r_squared`` of durations, and the median of
    their relative errors. ``left_out`` steps lasted so long that something else must have happened."""

    step_time: StepTime
    steps: int
    left_out: int
    r_squared: float
    median_relative_error: float


def fit_step_time(batch: Floats, prefill_tokens: Floats, kv_tokens: Floats, duration_s: Floats) -> StepFit:
    """Non-negative least squares over N measured steps, arrays [N].

    Steps weigh by 1 / duration, as if their variance rose with it: a few long prefills do not drown all decode steps,
    and the time that all steps take together, which a queue depends on, is still met. Every choice of the coefficients
    that are not 0 is tried, so the best one is found exactly. Steps beyond three times what a first fit says are
    pauses, and are left out of the second.

    Raises:
        ValueError: fewer than six steps, or durations that are not positive.
    """
    if len(duration_s) < 6 or not (duration_s > 0).all():
        raise ValueError(f"{len(duration_s)} steps: needs six or more, each of a duration above 0")
    fits = [_fit(batch, prefill_tokens, kv_tokens, duration_s, size) for size in GRAPH_TOKENS]
    return min(fits, key=lambda fit: (-round(fit.r_squared, 3), fit.step_time.f_s > 0))


def _fit(batch: Floats, prefill_tokens: Floats, kv_tokens: Floats, duration_s: Floats, graph_tokens: int) -> StepFit:
    one, mixed = np.ones_like(duration_s), (prefill_tokens > 0).astype(np.float64)
    beyond = beyond_graphs(batch, prefill_tokens, graph_tokens).astype(np.float64)
    work = np.stack([one, batch, prefill_tokens, kv_tokens, mixed, beyond], axis=1)
    usual = duration_s < PAUSE_FACTOR * (work @ _coefficients(work, duration_s))
    work, measured_s = work[usual], duration_s[usual]
    best = _coefficients(work, measured_s)
    predicted_s = work @ best
    spread = float(((measured_s - measured_s.mean()) ** 2).sum())
    missed = float(((measured_s - predicted_s) ** 2).sum())
    a_s, b_s, c_s, d_s, e_s, f_s = best.tolist()
    return StepFit(
        StepTime(a_s, b_s, c_s, d_s, e_s, f_s, graph_tokens if f_s else 0),
        len(measured_s),
        int((~usual).sum()),
        1 - missed / spread if spread > 0 else float(missed == 0),
        float(np.median(np.abs(predicted_s - measured_s) / measured_s)),
    )


def read_steps(path: Path) -> tuple[Floats, Floats, Floats, Floats]:
    """Arrays of ``batch``, ``prefill_tokens``, ``kv_tokens`` and ``duration_s`` from a CSV file, a JSON list of
    objects, or what ``benchmarks.engine_steps`` writes.

    Raises:
        ValueError: naming row and field.
    """
    try:
        rows = _rows(path)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: no steps: {type(error).__name__}: {error}") from None
    values = [[_number(path, number, name, row) for name in FIELDS] for number, row in enumerate(rows, 1)]
    batch, prefill, kv, duration = np.array(values, np.float64).reshape(-1, 4).T
    return batch, prefill, kv, duration


def _rows(path: Path) -> Iterable[Mapping[str, Any]]:
    if path.suffix != ".json":
        with path.open(newline="") as file:
            return list(csv.DictReader(file))
    given = json.loads(path.read_text())
    if isinstance(given, list):
        return given
    names = given["columns"]["steps"]
    return [dict(zip(names, step, strict=True)) for run in given["runs"] for step in run["steps"]]


def _number(path: Path, row_number: int, name: str, row: Mapping[str, Any]) -> float:
    try:
        value = float(row[name])
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path} row {row_number}: {name}: {row.get(name)!r} is not a number") from None
    if not 0 <= value < float("inf"):
        raise ValueError(f"{path} row {row_number}: {name}: {value} is not 0 or more")
    return value


def _coefficients(work: Floats, duration_s: Floats) -> Floats:
    """[6] coefficients of the columns of ``work`` [N, 6], none negative, with the least weighted squared error.

    Raises:
        ValueError: only negative ones would fit.
    """
    weight = 1 / np.sqrt(duration_s)
    weighted, measured = work * weight[:, None], duration_s * weight
    terms = work.shape[1]
    best, least = np.zeros(terms), np.inf
    for chosen in (c for size in range(1, terms + 1) for c in combinations(range(terms), size) if c[0] == 0):
        found = _least_squares(weighted[:, chosen], measured)
        error = float(((weighted[:, chosen] @ found - measured) ** 2).sum())
        if (found >= 0).all() and found[0] > 0 and error < least:
            best, least = np.zeros(terms), error
            best[list(chosen)] = found
    if not np.isfinite(least):
        raise ValueError("no step time of non-negative parts fits: do durations fall with the work?")
    return best


def _least_squares(columns: Floats, measured: Floats) -> Floats:
    """Coefficients that bring ``columns @ coefficients`` closest; columns are brought to one scale first."""
    scale = np.abs(columns).max(axis=0)
    scale[scale == 0] = 1
    found, *_ = np.linalg.lstsq(columns / scale, measured, rcond=None)
    solved: Floats = found / scale
    return solved
