"""The command: checks everything first, then runs the sweep and tells what came out."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from engine_adapter.simulated.step_fit import StepFit
from sidecar.cli.simulate.arms import Arm, parse_arms, policy_names
from sidecar.cli.simulate.capacity import stored_capacity
from sidecar.cli.simulate.cells import Cell, Experiment
from sidecar.cli.simulate.errors import SimulateError
from sidecar.cli.simulate.load_names import parse_load
from sidecar.cli.simulate.options import check_load, kv_blocks_of, loads_of, step_time_of
from sidecar.cli.simulate.prediction_names import KNOWN, parse_predictions
from sidecar.cli.simulate.setup import EngineSetup
from sidecar.cli.simulate.summary import baseline_of, summarise, table_of
from sidecar.cli.simulate.sweep import run_sweep

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def simulate(
    trace: Annotated[
        str,
        typer.Option(
            help="Azure's CSV, Mooncake's JSON lines or a CSV of arrival_s,prompt_tokens,output_tokens; or "
            "poisson:LENGTHS[?cv=3], gamma:LENGTHS:CV, burst:LENGTHS with LENGTHS alpaca or a trace file."
        ),
    ] = "poisson:alpaca",
    policies: Annotated[
        str, typer.Option(help="With commas: NAME or NAME:key=value:key=value, as trail:c=0.5:unit=tokens.")
    ] = "fcfs,default,oracle",
    load: Annotated[
        str | None,
        typer.Option(help="Arrival rates, shares of the FCFS capacity; default: as recorded, else 0.7,0.9,1.1."),
    ] = None,
    slots: Annotated[int, typer.Option(help="Requests that run at once.")] = 64,
    kv_blocks: Annotated[int | None, typer.Option(help="Default: plenty.")] = None,
    block_tokens: Annotated[int, typer.Option(help="Tokens a KV block.")] = 16,
    token_budget: Annotated[int, typer.Option(help="Tokens a step.")] = 2048,
    prefix_cache: Annotated[bool, typer.Option(help="Keep KV blocks that nobody uses until they are needed.")] = True,
    predictions: Annotated[str, typer.Option(help=KNOWN + ".")] = "lognormal:0.75",
    seeds: Annotated[int, typer.Option(help="Repeats, seeds from 0.")] = 3,
    duration_s: Annotated[
        float | None, typer.Option(help="Seconds of arrivals; default: the whole trace, else 60.")
    ] = None,
    step_ms: Annotated[float | None, typer.Option(help="Every step takes as long; default: 5.")] = None,
    step_time: Annotated[
        Path | None,
        typer.Option(help="JSON of a_s to f_s; or steps to fit: batch,prefill_tokens,kv_tokens,duration_s."),
    ] = None,
    every: Annotated[int, typer.Option(help="Predict and plan in every so many-th step.")] = 1,
    plan_delay_steps: Annotated[int, typer.Option(help="Steps until the engine follows a plan.")] = 1,
    jobs: Annotated[int, typer.Option(help="Processes; 0: as many as there are cores.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder with a file a run, so that a stopped sweep resumes.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else.")] = False,
    list_policies: Annotated[bool, typer.Option("--list-policies", help="Name them and leave.")] = False,
) -> None:
    """Compares scheduling policies on a simulated engine, by the planner that runs in production."""
    if list_policies:
        _list_policies()
        return
    try:
        for name, value, least in (
            ("seeds", seeds, 1), ("every", every, 1), ("plan-delay-steps", plan_delay_steps, 1), ("jobs", jobs, 0),
        ):  # fmt: skip
            if value < least:
                raise SimulateError(f"--{name} {value}: must be {least} or more")
        if duration_s is not None and not 0 < duration_s < float("inf"):
            raise SimulateError(f"--duration-s {duration_s:g}: must be above 0")
        arms = parse_arms(policies)
        parse_predictions(predictions)
        time, fit = step_time_of(step_ms, step_time)
        source = parse_load(trace)
        blocks = kv_blocks_of(kv_blocks, source, slots, block_tokens)
        setup = EngineSetup(time, slots, blocks, block_tokens, token_budget, prefix_cache)
        check_load(setup, source)
        capacity_rps = stored_capacity(setup, source, trace, out)
        shares = loads_of(load, source, capacity_rps)
    except SimulateError as error:
        typer.echo(f"trail simulate: {error}", err=True)
        raise typer.Exit(2) from None
    experiment = Experiment(trace, predictions, setup, capacity_rps, duration_s, every, plan_delay_steps)
    report = _run(experiment, arms, shares, seeds, jobs or os.cpu_count() or 1, out)
    if fit is not None:
        report["step_fit"] = asdict(fit)
    if as_json:
        typer.echo(json.dumps(report, indent=1))
    else:
        _show(report, fit)


def _run(
    experiment: Experiment, arms: list[Arm], shares: list[float], seeds: int, jobs: int, out: Path | None
) -> dict[str, Any]:
    cells = [Cell(arm.name, share, seed) for share in shares for arm in arms for seed in range(seeds)]
    columns = TextColumn("simulating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(cells))
        runs = run_sweep(experiment, cells, jobs, out, lambda: progress.advance(task))
    baseline = baseline_of([arm.name for arm in arms])
    return {"runs": runs, "summary": summarise(runs, baseline), "baseline": baseline, "experiment": asdict(experiment)}


def _show(report: dict[str, Any], fit: StepFit | None) -> None:
    console = Console()
    if fit is not None:
        console.print(
            f"step time fitted to {fit.steps} steps ({fit.left_out} left out): R² {fit.r_squared:.3f}, "
            f"median relative error {fit.median_relative_error:.1%}"
        )
    console.print(f"load 1 is {report['experiment']['capacity_rps']:.4g} requests a second")
    console.print(table_of(report["summary"], report["baseline"]))


def _list_policies() -> None:
    about = {
        "default": "what we recommend",
        "oracle": "srpt on true lengths, and nothing else",
        "paper": "trail as in the paper: tokens, c = 0.8, no aging, no test of whether a preemption pays",
        "engine": "the engine's own order",
    }
    for name in policy_names():
        typer.echo(f"{name}: {about[name]}" if name in about else name)
