"""The command: checks everything first, then sweeps, chooses and writes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from sidecar.cli.simulate import typed
from sidecar.cli.simulate.errors import SimulateError
from sidecar.cli.simulate.given import Given, Prepared
from sidecar.cli.tune.knobs import policy_knobs
from sidecar.cli.tune.ratios import over_seeds
from sidecar.cli.tune.report import Row, as_dict, rows_of, table_of, told
from sidecar.cli.tune.service_time import mean_service_s
from sidecar.cli.tune.settings_file import write_settings
from sidecar.cli.tune.study import MEAN, Study, Sweep, run_study

DEFAULT_LOADS = "0.8,0.95,1.1"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def tune(
    trace: typed.TraceName = "poisson:alpaca",
    load: Annotated[
        str | None,
        typer.Option(help=f"Arrival rates, shares of the FCFS capacity; default: as recorded, else {DEFAULT_LOADS}."),
    ] = None,
    slots: typed.Slots = 64,
    kv_blocks: typed.KvBlocks = None,
    block_tokens: typed.BlockTokens = 16,
    token_budget: typed.TokenBudget = 2048,
    predictions: typed.PredictionsName = "lognormal:0.75",
    seeds: typed.Seeds = 3,
    duration_s: typed.DurationS = None,
    step_ms: typed.StepMs = None,
    step_time: typed.StepTimeFile = None,
    jobs: typed.Jobs = 0,
    p99_slack: Annotated[
        float, typer.Option(help="How much longer than the default's p99 may be, as a share of it.")
    ] = 0.02,
    out: Annotated[Path, typer.Option(help="Folder for all that is written; a stopped sweep goes on from it.")] = Path(
        "out/tune"
    ),
    as_json: typed.AsJson = False,
) -> None:
    """Finds settings of the scheduler for your load and memory, on a simulated engine: sweeps c, the margin, aging and
    K one at a time around the default, and takes what has the lowest mean latency, where that is no chance."""
    given = Given(
        trace=trace, predictions=predictions, load=load, slots=slots, kv_blocks=kv_blocks, block_tokens=block_tokens,
        token_budget=token_budget, seeds=seeds, duration_s=duration_s, step_ms=step_ms, step_time=step_time, jobs=jobs,
        default_loads=DEFAULT_LOADS,
    )  # fmt: skip
    try:
        if not (math.isfinite(p99_slack) and p99_slack >= 0):
            raise SimulateError(f"--p99-slack {p99_slack:g}: must be 0 or more")
        cells = _folder(out / "cells")
        prepared = given.prepare(cells)
    except SimulateError as error:
        typer.echo(f"trail tune: {error}", err=True)
        raise typer.Exit(2) from None
    service_s = mean_service_s(prepared.experiment.setup, prepared.source)
    sweep = Sweep(prepared.experiment, prepared.shares, seeds, given.processes, cells)
    study = run_study(sweep, policy_knobs(service_s), p99_slack)
    rows = rows_of(study)
    report = _described(prepared, seeds, service_s, p99_slack) | as_dict(study, rows)
    written = _write(out, study, rows, report)
    if as_json:
        typer.echo(json.dumps(report, indent=1))
    else:
        _show(report, study, rows, written)


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SimulateError(f"--out {path.parent}: {error.strerror}") from None
    return path


def _described(prepared: Prepared, seeds: int, service_s: float, p99_slack: float) -> dict[str, Any]:
    report = {
        "experiment": asdict(prepared.experiment), "loads": prepared.shares, "seeds": seeds,
        "mean_service_s": service_s, "p99_slack": p99_slack,
    }  # fmt: skip
    return report if prepared.fit is None else report | {"step_fit": asdict(prepared.fit)}


def _write(out: Path, study: Study, rows: Sequence[Row], report: dict[str, Any]) -> list[Path]:
    """All files; without matplotlib there is no picture, which standard error says."""
    written = write_settings(out, dict(study.chosen.settings), study.every, _about(report, study))
    (out / "tune.json").write_text(json.dumps(report, indent=1) + "\n")
    written.append(out / "tune.json")
    try:
        from sidecar.cli.tune.plot import draw

        draw(study.knobs, rows, out / "sensitivity.svg")
    except ImportError as error:
        typer.echo(f"trail tune: no sensitivity.svg: {error}: pip install matplotlib", err=True)
    else:
        written.append(out / "sensitivity.svg")
    return written


def _about(report: dict[str, Any], study: Study) -> list[str]:
    experiment = report["experiment"]
    setup = experiment["setup"]
    loads = ", ".join(f"{share:g}" for share in report["loads"])
    return [
        "Settings of the scheduler, chosen by `trail tune`",
        f"for {experiment['trace']} at load {loads}, predictions {experiment['predictions']}, "
        f"{setup['slots']} slots, {setup['kv_blocks']} KV blocks of {setup['block_tokens']} tokens",
        *_outcome(study),
    ]


def _outcome(study: Study) -> list[str]:
    lines = [study.verdict]
    if study.best:
        trial = study.trial(study.chosen)
        lines.append(f"mean latency over the default's: {told(trial.mean)}; p99: {told(trial.p99)}")
    over_fcfs = over_seeds(study.runs[study.chosen], study.fcfs, MEAN)
    return [*lines, f"mean latency over that of first come, first served: {told(over_fcfs)}"]


def _show(report: dict[str, Any], study: Study, rows: Sequence[Row], written: Sequence[Path]) -> None:
    console = Console()
    console.print(f"load 1 is {report['experiment']['capacity_rps']:.4g} requests a second")
    console.print(table_of(rows))
    for line in (*_outcome(study), f"K = {study.every}"):
        console.print(line, soft_wrap=True)
    for path in written:
        console.print(f"written: {path}", soft_wrap=True, highlight=False)
