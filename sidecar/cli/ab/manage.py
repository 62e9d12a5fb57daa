"""`trail ab create|start|status|stop`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from scheduler_service.experiments import wire
from scheduler_service.experiments.figures import FIGURES
from sidecar.cli.ab.arms import parse_arm
from sidecar.cli.ab.client import TIMEOUT_S, experiments
from sidecar.cli.ab.errors import AbError
from sidecar.cli.ab.times import clock, duration, seconds
from trail.v1 import experiment_pb2

Scheduler = Annotated[str, typer.Option(help="Address of a scheduler service; any replica will do.")]
Name = Annotated[str, typer.Argument(help="Of the experiment.")]
ADDRESS = "127.0.0.1:50062"

STATES = {
    experiment_pb2.EXPERIMENT_STATE_CREATED: "created",
    experiment_pb2.EXPERIMENT_STATE_RUNNING: "[green]running[/]",
    experiment_pb2.EXPERIMENT_STATE_HALTED: "[red]halted[/]",
    experiment_pb2.EXPERIMENT_STATE_FINISHED: "[bold]finished[/]",
    experiment_pb2.EXPERIMENT_STATE_STOPPED: "stopped",
}


def create(
    name: Annotated[str, typer.Argument(help="Of the experiment: letters, digits, . _ -")],
    arm: Annotated[
        list[str],
        typer.Option(
            help="Control first, then one or more: NAME=own (the engines' own policy), NAME=POLICY:key=value:... or "
            "NAME=artefact:NAME (a predictor artefact)."
        ),
    ],
    block: Annotated[str, typer.Option(help="Time that an engine serves one arm, as 30m.")],
    shadow: Annotated[
        list[str] | None, typer.Option(help="Likewise, but its plans are only written down, never followed.")
    ] = None,
    engines: Annotated[str, typer.Option(help="With commas; default: all that are connected now.")] = "",
    washout: Annotated[
        str, typer.Option(help="Time at both ends of a block that does not count; default: what 99 % of requests take.")
    ] = "",
    figure: Annotated[str, typer.Option(help="What decides: " + ", ".join(FIGURES) + ".")] = "mean_latency",
    effect: Annotated[float, typer.Option(help="The least difference that shall be found: 0.1 is 10 %.")] = 0.1,
    power: Annotated[float, typer.Option(help="How likely it shall be found.")] = 0.8,
    alpha: Annotated[float, typer.Option(help="How often a difference may be claimed where there is none.")] = 0.05,
    groups: Annotated[
        int, typer.Option(min=0, help="Rounds of one block for each arm; default: as many as the power asks for.")
    ] = 0,
    noise: Annotated[
        float, typer.Option(min=0, help="By how much two blocks differ by themselves; default: as lately, or 0.2.")
    ] = 0.0,
    max_p99: Annotated[
        str,
        typer.Option(help="Guardrail: back to control where an arm's p99 latency in a block is above this, as 30s."),
    ] = "",
    max_errors: Annotated[
        float, typer.Option(min=0, max=1, help="Guardrail: share of requests that fail or are aborted.")
    ] = 0.0,
    max_wait: Annotated[str, typer.Option(help="Guardrail: the longest that a request may wait, as 60s.")] = "",
    max_worse: Annotated[
        float, typer.Option(min=0, help="Guardrail: by how much what decides may surely be worse, as a share.")
    ] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="Of the lots.")] = 0,
    dry_run: Annotated[bool, typer.Option(help="Say what would be created, and create nothing.")] = False,
    scheduler: Scheduler = ADDRESS,
) -> None:
    """Designs an experiment: how long it takes, how likely it finds what there is to find. Nothing starts yet."""
    arms = [parse_arm(text) for text in arm] + [parse_arm(text, shadow=True) for text in shadow or []]
    rails = experiment_pb2.ExperimentGuardrails(
        p99_latency_s=seconds("--max-p99", max_p99) if max_p99 else 0.0,
        error_rate=max_errors,
        waiting_s=seconds("--max-wait", max_wait) if max_wait else 0.0,
        worse=max_worse,
    )
    design = experiment_pb2.ExperimentDesign(
        name=name,
        arms=[wire.arm(each) for each in arms],
        engine_ids=[each.strip() for each in engines.split(",") if each.strip()],
        block_s=seconds("--block", block),
        washout_s=seconds("--washout", washout) if washout else 0.0,
        groups=groups,
        figure=figure,
        alpha=alpha,
        noise=noise,
        guardrails=rails,
        seed=seed,
    )
    request = experiment_pb2.CreateExperimentRequest(design=design, minimum_effect=effect, power=power, dry_run=dry_run)
    with experiments(scheduler) as stub:
        created = stub.CreateExperiment(request, timeout=TIMEOUT_S)
    _tell_design(created, effect, dry_run)


def start(name: Name, scheduler: Scheduler = ADDRESS) -> None:
    """Starts an experiment. It ends by itself, and the engines go back to their own policies."""
    with experiments(scheduler) as stub:
        times = stub.StartExperiment(experiment_pb2.StartExperimentRequest(name=name), timeout=TIMEOUT_S)
    typer.echo(f"{name} runs from {clock(times.start_s)} to {clock(times.end_s)} (trail ab status {name})")


def stop(
    name: Name,
    reason: Annotated[str, typer.Option(help="For the record.")] = "",
    scheduler: Scheduler = ADDRESS,
) -> None:
    """Stops an experiment at once: the engines go back to their own policies. What was measured stays."""
    with experiments(scheduler) as stub:
        stub.StopExperiment(experiment_pb2.StopExperimentRequest(name=name, reason=reason), timeout=TIMEOUT_S)
    typer.echo(f"{name} is stopped; every engine has its own policy again (trail ab report {name})")


def status(
    name: Annotated[str, typer.Argument(help="Of an experiment; without it, all are listed.")] = "",
    scheduler: Scheduler = ADDRESS,
) -> None:
    """Tells which experiments there are, and what their engines serve now."""
    with experiments(scheduler) as stub:
        found = stub.ListExperiments(experiment_pb2.ListExperimentsRequest(), timeout=TIMEOUT_S).experiments
    known = [each for each in found if not name or each.design.name == name]
    if name and not known:
        raise AbError(
            f"there is no experiment {name!r} (there are: {', '.join(e.design.name for e in found) or 'none'})"
        )
    if not known:
        typer.echo("no experiments yet (trail ab create --help)")
        return
    console = Console()
    console.print(_listed(known))
    for each in known if name else ():
        console.print(_engines(each))


def _tell_design(created: experiment_pb2.CreateExperimentResponse, effect: float, dry_run: bool) -> None:
    design = created.design
    live = [arm.name for arm in design.arms if not arm.shadow]
    blocks, engines = design.groups * len(live), len(design.engine_ids)
    table = Table(title=f"{design.name}{' (not created: --dry-run)' if dry_run else ''}", show_header=False)
    table.add_row("arms", f"{live[0]} (control), {', '.join(live[1:])}" if live[1:] else live[0])
    if len(live) < len(design.arms):
        table.add_row("in shadow", ", ".join(arm.name for arm in design.arms if arm.shadow))
    table.add_row("engines", f"{engines}: {', '.join(design.engine_ids[:6])}{' ...' if engines > 6 else ''}")
    table.add_row("blocks", f"{blocks} of {duration(design.block_s)} on each, washout {duration(design.washout_s)}")
    table.add_row("takes", duration(blocks * design.block_s))
    table.add_row("decides", f"{FIGURES[design.figure].title}, alpha {design.alpha:g}")
    table.add_row("power", f"{created.power:.0%} for {effect:+.0%} ({created.pairs_needed} pairs of blocks needed)")
    rails = design.guardrails
    told = [f"{name} {value:g}" for name in ("p99_latency_s", "error_rate", "waiting_s", "worse")
            if (value := getattr(rails, name))]  # fmt: skip
    table.add_row("back to control at", ", ".join(told) or "nothing: it has no guardrails")
    for note in created.notes:
        table.add_row("", f"[dim]{note}[/]")
    Console().print(table)
    if not dry_run:
        typer.echo(f"start it: trail ab start {design.name}")


def _listed(found: list[experiment_pb2.Experiment]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("experiment", "state", "arms", "engines", "block", "ends"):
        table.add_column(column)
    for each in found:
        design = each.design
        ends = "-" if not each.end_s else f"{clock(each.end_s)}"
        if each.state == experiment_pb2.EXPERIMENT_STATE_RUNNING:
            ends += f" (in {duration(max(each.end_s - each.now_s, 0))})"
        live = sum(not arm.shadow for arm in design.arms)
        block = int((each.now_s - each.start_s) // design.block_s) if each.start_s else -1
        of = f"{min(max(block, 0) + 1, design.groups * live)}/{design.groups * live}" if each.start_s else "-"
        names = ", ".join(arm.name + (" (shadow)" if arm.shadow else "") for arm in design.arms)
        table.add_row(design.name, STATES[each.state], names, str(len(design.engine_ids)), of, ends)
        if each.reason:
            table.add_row("", "", f"[red]{escape(each.reason)}[/]")
    return table


def _engines(each: experiment_pb2.Experiment) -> Table:
    table = Table(box=None, pad_edge=False, title="serves now", title_justify="left")
    for engine_id, arm in zip(each.design.engine_ids, each.arms_now, strict=True):
        table.add_row(engine_id, arm or "[dim]its own policy[/]")
    return table
