"""`trail ab report`: what an experiment has found by now."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from scheduler_service.experiments import wire
from scheduler_service.experiments.analysis.effects import Effect
from scheduler_service.experiments.analysis.pairs import Block
from scheduler_service.experiments.analysis.verdict import Verdict, verdicts
from scheduler_service.experiments.design import Design, design_of
from scheduler_service.experiments.figures import FIGURES
from sidecar.cli.ab.client import TIMEOUT_S, experiments
from sidecar.cli.ab.manage import ADDRESS, STATES, Name, Scheduler
from sidecar.cli.ab.page import write_page
from sidecar.cli.ab.words import effect_text, headline, range_text
from trail.v1 import experiment_pb2


def report(
    name: Name,
    out: Annotated[
        Path | None, typer.Option(help="Write a page to read in a browser, with plots, to this .html file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else.")] = False,
    scheduler: Scheduler = ADDRESS,
) -> None:
    """Tells the verdict so far, with all figures and the checks that say whether to believe it.

    Look as often as you like: the intervals hold at every look.
    """
    with experiments(scheduler) as stub:
        found = stub.GetExperiment(experiment_pb2.GetExperimentRequest(name=name), timeout=TIMEOUT_S)
    design = design_of(wire.given(found.experiment.design, ()))
    blocks = [wire.block_of(block) for block in found.blocks]
    judged = verdicts(design, blocks)
    if out is not None:
        write_page(out, design, found, blocks, judged)
    if as_json:
        typer.echo(json.dumps(_as_json(design, found, blocks, judged), indent=1))
        return
    _print(Console(), design, found, blocks, judged)
    if out is not None:
        typer.echo(f"wrote {out}")


def _print(
    console: Console,
    design: Design,
    found: experiment_pb2.GetExperimentResponse,
    blocks: list[Block],
    judged: list[Verdict],
) -> None:
    experiment = found.experiment
    done = sum(not block.void for block in blocks)
    console.print(
        f"[bold]{design.name}[/]: {STATES[experiment.state]}, {done} of {design.blocks * len(design.engines)} blocks"
        f" done{', ' + str(len(blocks) - done) + ' void' if len(blocks) > done else ''}"
    )
    if experiment.reason:
        console.print(f"[red]{escape(experiment.reason)}[/]")
    for verdict in judged:
        console.print(f"\n[bold]{headline(design, verdict)}[/]")
        console.print(_figures(design, verdict))
        for check in verdict.checks:
            mark = "[green]ok[/]" if check.passed else "[red]FAILED[/]"
            p = "" if check.p is None else f", p = {check.p:.3g}"
            console.print(f"{mark} {check.name}: {check.says}{p}", highlight=False)
    for shadow in found.shadows:
        console.print(
            f"\nshadow [bold]{shadow.arm}[/]: {shadow.plans} plans; order agrees {shadow.mean_order_agreement:.2f} "
            f"(Kendall's tau), the same first in {shadow.same_first:.0%}; {shadow.mean_preemptions:.2f} preemptions a "
            f"plan instead of {shadow.mean_preemptions_sent:.2f}",
            highlight=False,
        )


def _figures(design: Design, verdict: Verdict) -> Table:
    table = Table(title=f"{verdict.arm} against {design.control.name}, means over blocks", title_justify="left")
    for column in (
        "figure",
        design.control.name,
        verdict.arm,
        "difference",
        f"{1 - design.alpha:.0%} interval",
        "pairs",
    ):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for effect in (verdict.deciding, *(each for each in verdict.others if each.pairs)):
        figure, decides = FIGURES[effect.figure], effect is verdict.deciding
        style = {"better": "green", "worse": "red"}.get(effect.says, "") if effect.pairs else "dim"
        table.add_row(
            f"{figure.title}, {figure.unit}" + (" *" if decides else ""),
            f"{effect.control:.3g}",
            f"{effect.treated:.3g}",
            effect_text(effect),
            range_text(effect),
            str(effect.pairs),
            style=style,
            end_section=decides,
        )
    table.caption = "* decides; the others are not corrected for being many"
    return table


def _as_json(
    design: Design, found: experiment_pb2.GetExperimentResponse, blocks: list[Block], judged: list[Verdict]
) -> dict[str, Any]:
    state = experiment_pb2.ExperimentState.Name(found.experiment.state).removeprefix("EXPERIMENT_STATE_").lower()
    return {
        "experiment": design.model_dump(mode="json"),
        "state": state,
        "reason": found.experiment.reason,
        "verdicts": [_verdict(verdict) for verdict in judged],
        "blocks": [asdict(block) for block in blocks],
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    def told(effect: Effect) -> dict[str, Any]:
        # JSON knows no infinity and no NaN.
        finite = {
            k: v if not isinstance(v, float) or abs(v) < float("inf") else None for k, v in asdict(effect).items()
        }
        return finite | {"says": effect.says}

    return {
        "arm": verdict.arm,
        "says": verdict.deciding.says,
        "believable": verdict.believable,
        "p": verdict.p,
        "deciding": told(verdict.deciding),
        "others": [told(effect) for effect in verdict.others],
        "checks": [asdict(check) for check in verdict.checks],
    }
