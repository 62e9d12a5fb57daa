"""The command."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live

from sidecar.cli.top import METRICS_PORTS
from sidecar.cli.top.figures import Figures
from sidecar.cli.top.frame import frame
from sidecar.cli.top.reading import figures
from sidecar.cli.top.scrape import Scraper

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def top(
    addresses: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[HOST:PORT]...",
            help="Metrics endpoints of predictors, schedulers and agents; default: where `trail up` has them.",
        ),
    ] = None,
    interval_s: Annotated[float, typer.Option("--interval", min=0.2, help="Seconds between two frames.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one frame, over one interval, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one frame as JSON, and end.")] = False,
) -> None:
    """Shows engines, queues, predictions, plans and arms, live. Rates and quantiles are those since the last frame."""
    console = Console()
    if not (once or as_json or console.is_terminal):
        typer.echo("trail top: this is no terminal: use --once or --json", err=True)
        raise typer.Exit(2)
    asked = addresses or [f"127.0.0.1:{port}" for port in METRICS_PORTS.values()]
    with Scraper(asked) as scraper:
        if once or as_json:
            _once(scraper, console, interval_s, as_json=as_json)
        else:
            _live(scraper, console, interval_s)


def _once(scraper: Scraper, console: Console, interval_s: float, *, as_json: bool) -> None:
    answered, _ = scraper.scrape()
    if answered:
        time.sleep(interval_s)
    found = figures(*scraper.scrape())
    if as_json:
        json.dump(_plain(dataclasses.asdict(found)), sys.stdout, indent=2)
        print()
    else:
        console.print(frame(found, _title()))
    if not answered:
        typer.echo("trail top: nobody answers: start services with --metrics-port, and name their addresses", err=True)
        raise typer.Exit(1)


def _live(scraper: Scraper, console: Console, interval_s: float) -> None:
    with Live(console=console, screen=True, auto_refresh=False) as live:
        try:
            while True:
                found: Figures = figures(*scraper.scrape())
                live.update(frame(found, f"{_title()}, every {interval_s:g} s; Ctrl-C ends"), refresh=True)
                time.sleep(interval_s)
        except KeyboardInterrupt:
            return


def _title() -> str:
    return f"trail top   {time.strftime('%H:%M:%S')}"


def _plain(value: Any) -> Any:
    """JSON has no infinity: what has no end is null, as is what is not known."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
