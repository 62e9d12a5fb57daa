"""``trail theory``: mean response times by formula beside a simulation of the same queue."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from scheduler_service.theory.comparison import Comparison, Row, Setting, compare
from scheduler_service.theory.estimate import FEWEST_REQUESTS
from scheduler_service.theory.named import predictions_named, sizes_named

PLOTS = (".png", ".svg", ".pdf")


class TheoryError(ValueError):
    """An option is out of range; the text names it and says what would do."""


def run_theory(
    loads: str, limits: str, sizes: str, predictions: str, requests: int, seed: int, as_json: bool, plot: Path | None
) -> None:
    """Prints a table, or JSON, on stdout and the simulation's progress on stderr.

    Raises:
        TheoryError: a bad option.
    """
    settings = [Setting(sizes, predictions, load) for load in numbers("load", loads)]
    c = numbers("c", limits)
    _check(settings, c, requests, seed, plot)
    progress = Progress(
        TextColumn("simulating"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), disable=not requests,
    )  # fmt: skip
    with progress:
        bar = progress.add_task("", total=requests * len(c) * len(settings))
        found = [compare(each, c, requests, seed, lambda done: progress.advance(bar, done)) for each in settings]
        progress.update(bar, completed=requests * len(c) * len(settings))
    if as_json:
        print(json.dumps(as_dict(found, requests, seed), indent=1))
    else:
        Console().print(_table(found))
    if plot:
        _draw(found, plot)


def numbers(option: str, text: str) -> list[float]:
    """Several, separated by commas."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise TheoryError(f"--{option}: {text!r} is not a list of numbers: give some as 0.5,0.8") from None


def as_dict(comparisons: Sequence[Comparison], requests: int, seed: int) -> dict[str, Any]:
    """What --json prints; times are in mean sizes."""
    return {
        "requests": requests,
        "seed": seed,
        "settings": [
            {**asdict(each.setting), "fcfs": each.fcfs, "srpt": each.srpt, "rows": [_row(row) for row in each.rows]}
            for each in comparisons
        ],
    }


def _row(row: Row) -> dict[str, Any]:
    simulation = row.simulation and {"mean": row.simulation.mean, "half_width": row.simulation.half_width}
    return {"c": row.c, "theory": row.theory, "simulation": simulation, "relative_difference": row.difference}


def _table(comparisons: Sequence[Comparison]) -> Table:
    setting = comparisons[0].setting
    table = Table(
        title=f"Mean response time in mean sizes; sizes {setting.sizes}, predictions {setting.predictions}",
        caption="c = 0: shortest prediction first, no preemption. c = 1: SPRPT. SRPT: c = 1, sizes known.",
    )
    for column in ("load", "policy", "theory", "simulation, 95 %", "theory / simulation", "FCFS / theory"):
        table.add_column(column, justify="right")
    for each in comparisons:
        load = f"{each.setting.load:g}"
        table.add_row(load, "FCFS", f"{each.fcfs:.3f}", "", "", "1.00")
        for row in each.rows:
            table.add_row(
                load, f"c = {row.c:g}", f"{row.theory:.3f}", *_simulated(row), f"{each.fcfs / row.theory:.2f}"
            )
        table.add_row(load, "SRPT", f"{each.srpt:.3f}", "", "", f"{each.fcfs / each.srpt:.2f}", end_section=True)
    return table


def _simulated(row: Row) -> tuple[str, str]:
    if row.simulation is None or row.difference is None:
        return "", ""
    return f"{row.simulation.mean:.3f} +- {row.simulation.half_width:.3f}", f"{row.difference:+.2%}"


def _check(settings: Sequence[Setting], limits: Sequence[float], requests: int, seed: int, plot: Path | None) -> None:
    for each in settings:
        if not 0 < each.load < 1:
            raise TheoryError(f"--load: {each.load:g} has no steady state: give loads above 0 and below 1")
    for c in limits:
        if not 0 <= c <= 1:
            raise TheoryError(f"--c: {c:g} is out of range: give limits from 0 (never preempt) to 1")
    if requests and requests < FEWEST_REQUESTS:
        raise TheoryError(f"--requests: {requests} are too few: give at least {FEWEST_REQUESTS}, or 0 for theory only")
    if seed < 0:
        raise TheoryError(f"--seed: {seed} is negative: give 0 or more")
    if plot and (plot.suffix not in PLOTS or not plot.parent.is_dir()):
        raise TheoryError(f"--plot: {plot} must end in {', '.join(PLOTS)} and lie in a folder that exists")
    try:
        sizes_named(settings[0].sizes)
        predictions_named(settings[0].predictions)
    except ValueError as error:
        raise TheoryError(f"--{error}") from None


def _draw(comparisons: Sequence[Comparison], plot: Path) -> None:
    from scheduler_service.theory.plot import draw

    try:
        draw(comparisons, plot)
    except OSError as error:
        raise TheoryError(f"--plot: {plot} cannot be written: {error.strerror}") from None
