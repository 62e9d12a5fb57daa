"""The command: checks everything first, then runs the sweep and tells what came out."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from engine_adapter.simulated.step_fit import StepFit
from sidecar.cli.simulate import typed
from sidecar.cli.simulate.arms import Arm, parse_arms, policy_names
from sidecar.cli.simulate.cells import Cell, Experiment
from sidecar.cli.simulate.errors import SimulateError
from sidecar.cli.simulate.given import Given
from sidecar.cli.simulate.progress import progress_bar
from sidecar.cli.simulate.summary import baseline_of, summarise, tables_of
from sidecar.cli.simulate.sweep import run_sweep

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def simulate(
    trace: typed.TraceName = "poisson:alpaca",
    policies: Annotated[
        str, typer.Option(help="With commas: NAME or NAME:key=value:key=value, as trail:c=0.5:unit=tokens.")
    ] = "fcfs,default,oracle",
    load: Annotated[
        str | None,
        typer.Option(help="Arrival rates, shares of the FCFS capacity; default: as recorded, else 0.7,0.9,1.1."),
    ] = None,
    slots: typed.Slots = 64,
    kv_blocks: typed.KvBlocks = None,
    block_tokens: typed.BlockTokens = 16,
    token_budget: typed.TokenBudget = 2048,
    prefix_cache: Annotated[bool, typer.Option(help="Keep KV blocks that nobody uses until they are needed.")] = True,
    predictions: typed.PredictionsName = "lognormal:0.75",
    seeds: typed.Seeds = 3,
    duration_s: typed.DurationS = None,
    step_ms: typed.StepMs = None,
    step_time: typed.StepTimeFile = None,
    every: Annotated[int, typer.Option(help="Predict and plan in every so many-th step.")] = 1,
    plan_delay_steps: Annotated[int, typer.Option(help="Steps until the engine follows a plan.")] = 1,
    jobs: typed.Jobs = 0,
    out: Annotated[Path | None, typer.Option(help="Folder with a file a run, so that a stopped sweep resumes.")] = None,
    as_json: typed.AsJson = False,
    list_policies: Annotated[bool, typer.Option("--list-policies", help="Name them and leave.")] = False,
) -> None:
    """Compares scheduling policies on a simulated engine, by the planner that runs in production."""
    if list_policies:
        _list_policies()
        return
    given = Given(
        trace=trace, predictions=predictions, load=load, slots=slots, kv_blocks=kv_blocks, block_tokens=block_tokens,
        token_budget=token_budget, seeds=seeds, duration_s=duration_s, step_ms=step_ms, step_time=step_time, jobs=jobs,
        prefix_cache=prefix_cache, every=every, plan_delay_steps=plan_delay_steps,
    )  # fmt: skip
    try:
        arms = parse_arms(policies)
        prepared = given.prepare(out)
    except SimulateError as error:
        typer.echo(f"trail simulate: {error}", err=True)
        raise typer.Exit(2) from None
    report = _run(prepared.experiment, arms, prepared.shares, seeds, given.processes, out)
    fit = prepared.fit
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
    with progress_bar(len(cells)) as done:
        runs = run_sweep(experiment, cells, jobs, out, done)
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
    console.print(*tables_of(report["summary"], report["baseline"]), sep="\n\n")


def _list_policies() -> None:
    about = {
        "default": "what we recommend",
        "oracle": "srpt on true lengths, and nothing else",
        "paper": "trail as in the paper: tokens, c = 0.8, no aging, no test of whether a preemption pays",
        "engine": "the engine's own order",
    }
    for name in policy_names():
        typer.echo(f"{name}: {about[name]}" if name in about else name)
