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

from engine_adapter.simulated.step_time import StepTime

Floats = npt.NDArray[np.float64]
PAUSE_FACTOR = 3.0
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

    Steps weigh by 1 / duration: relative errors count, or a few long prefills would drown all decode steps. With four
    coefficients every choice of those that are not 0 is tried, so the best one is found exactly. Steps beyond three
    times what a first fit says are pauses, and are left out of the second.

    Raises:
        ValueError: fewer than four steps, or durations that are not positive.
    """
    if len(duration_s) < 4 or not (duration_s > 0).all():
        raise ValueError(f"{len(duration_s)} steps: needs four or more, each of a duration above 0")
    work = np.stack([np.ones_like(duration_s), batch, prefill_tokens, kv_tokens], axis=1)
    usual = duration_s < PAUSE_FACTOR * (work @ _coefficients(work, duration_s))
    work, measured_s = work[usual], duration_s[usual]
    best = _coefficients(work, measured_s)
    predicted_s = work @ best
    spread = float(((measured_s - measured_s.mean()) ** 2).sum())
    missed = float(((measured_s - predicted_s) ** 2).sum())
    return StepFit(
        StepTime(*best.tolist()),
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
    """[4] coefficients of the columns of ``work`` [N, 4], none negative, that bring the relative errors down most.

    Raises:
        ValueError: only negative ones would fit.
    """
    relative = work / duration_s[:, None]
    best, least = np.zeros(4), np.inf
    for chosen in (c for size in range(1, 5) for c in combinations(range(4), size) if c[0] == 0):
        found = _least_squares(relative[:, chosen])
        error = float(((relative[:, chosen] @ found - 1) ** 2).sum())
        if (found >= 0).all() and found[0] > 0 and error < least:
            best, least = np.zeros(4), error
            best[list(chosen)] = found
    if not np.isfinite(least):
        raise ValueError("no step time of non-negative parts fits: do durations fall with the work?")
    return best


def _least_squares(columns: Floats) -> Floats:
    """Coefficients that bring ``columns @ coefficients`` closest to 1; columns are brought to one scale first."""
    scale = np.abs(columns).max(axis=0)
    scale[scale == 0] = 1
    found, *_ = np.linalg.lstsq(columns / scale, np.ones(len(columns)), rcond=None)
    solved: Floats = found / scale
    return solved
