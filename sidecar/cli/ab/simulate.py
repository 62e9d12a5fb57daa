"""`trail ab simulate`: what an experiment would find, on simulated engines where the truth is known."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from scheduler_service.experiments.figures import FIGURES
from sidecar.cli.ab.errors import AbError
from sidecar.cli.ab.simulated import Simulated, Wanted, simulated
from sidecar.cli.simulate.errors import SimulateError

RELATIVE = [name for name, figure in FIGURES.items() if figure.relative]


def simulate(
    aa: Annotated[
        bool, typer.Option("--aa", help="No difference between the arms, so every one that is claimed is false.")
    ] = False,
    effect: Annotated[
        float, typer.Option(help="The difference for which power is planned, and which there is: 0.1 is 10 % more.")
    ] = 0.1,
    runs: Annotated[int, typer.Option(min=1, help="Experiments.")] = 500,
    figure: Annotated[str, typer.Option(help="What decides: " + ", ".join(RELATIVE) + ".")] = "mean_latency",
    alpha: Annotated[float, typer.Option(help="How often a difference may be claimed where there is none.")] = 0.05,
    power: Annotated[float, typer.Option(help="How likely the difference is to be found.")] = 0.8,
    engines: Annotated[int, typer.Option(min=1, help="Engines in an experiment.")] = 2,
    block_s: Annotated[float, typer.Option(min=1, help="Seconds of a block.")] = 180.0,
    trace: Annotated[str, typer.Option(help="Requests, as for `trail simulate --trace`.")] = "poisson:alpaca",
    load: Annotated[float, typer.Option(min=0.01, help="Arrivals, as a share of what an engine can serve.")] = 0.7,
    slots: Annotated[int, typer.Option(min=1, help="Requests that an engine runs at once.")] = 8,
    step_ms: Annotated[float, typer.Option(min=0.001, help="Duration of an engine's step.")] = 20.0,
    traces: Annotated[int, typer.Option(min=1, help="Engines to simulate; experiments take stretches of them.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Of arrivals, lengths and lots.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Processes; default: one a core.")] = os.cpu_count() or 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else.")] = False,
) -> None:
    """Plans an experiment by a pilot, and runs it many times on simulated engines, where the truth is known.

    Every experiment is looked at after each pair of blocks.
    """
    if figure not in RELATIVE:
        raise AbError(f"--figure {figure}: not one of {', '.join(RELATIVE)}")
    if not effect > -1 or effect == 0:
        raise AbError(f"--effect {effect:g}: must be above -1, and not 0 (--aa is for no effect)")
    for name, value in (("--alpha", alpha), ("--power", power)):
        if not 0 < value < 1:
            raise AbError(f"{name} {value:g}: must be between 0 and 1")
    wanted = Wanted(
        effect, 0.0 if aa else effect, figure, alpha, power, engines, runs, block_s, trace, load, slots, step_ms,
        traces, seed, jobs,
    )  # fmt: skip
    with Progress(console=Console(stderr=True)) as progress:

        def advance(what: str, steps: int) -> Callable[[], None]:
            task = progress.add_task(what, total=steps)
            return lambda: progress.advance(task)

        try:
            found = simulated(wanted, advance)
        except SimulateError as error:
            raise AbError(str(error)) from None
    if as_json:
        typer.echo(json.dumps(_summary(found, aa) | asdict(found), indent=1))
    else:
        Console().print(_table(found, aa))


def _summary(found: Simulated, aa: bool) -> dict[str, Any]:
    rate = {"false_positive_rate": found.trials.found} if aa else {"power": found.trials.found_right}
    return rate | {"alpha": found.wanted.alpha, "runs": found.trials.runs}


def _table(found: Simulated, aa: bool) -> Table:
    wanted, trials, hours = found.wanted, found.trials, found.blocks * found.wanted.block_s / 3600
    table = Table(
        title=f"{trials.runs} experiments on {wanted.engines} engines, {found.blocks} blocks of {wanted.block_s:g} s "
        f"each ({hours:.1f} h), washout {found.washout_s:g} s",
        show_header=False,
    )
    table.add_row("blocks differ by themselves by", f"{found.plan.noise:.1%}")
    table.add_row(f"planned power for {wanted.planned_effect:+.0%}", f"{found.plan.power:.1%}")
    table.add_row("true difference", "none" if aa else f"{wanted.true_effect:+.0%}")
    table.add_row("claimed a difference, at any look", f"{trials.found:.1%}")
    if not aa:
        table.add_row("claimed it on the right side", f"{trials.found_right:.1%}")
    table.add_row("randomisation test, at the end alone", f"{trials.found_at_one_look:.1%}")
    table.add_row("interval holds the truth, at the end", f"{trials.covered:.1%}")
    table.add_row("interval holds the truth, at every look", f"{trials.always_covered:.1%}")
    table.add_row("mean estimate", f"{trials.mean_estimate:+.1%}")
    return table
