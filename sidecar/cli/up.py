"""``trail up``: store, predictor and scheduler in one terminal."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

import typer
from rich.console import Console

from sidecar.cli.stack import StackError, running_stack


def run_up(host: str, predictor_port: int, scheduler_port: int, redis_url: str | None, model_dir: Path | None) -> None:
    """Runs until SIGINT or SIGTERM."""
    console = Console()
    stop = threading.Event()
    # Until all is up, Ctrl-C interrupts; afterwards it ends in order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console.print("starting store, predictor and scheduler ...")
    try:
        with running_stack(host, predictor_port, scheduler_port, redis_url, model_dir) as stack:
            console.print(
                f"[bold green]ready[/]  predictor {stack.predictor}  scheduler {stack.scheduler}"
                f"  store {stack.redis_url}"
                f"\nattach an engine: trail serve MODEL --predictor {stack.predictor} --scheduler {stack.scheduler}"
                "\nCtrl-C ends",
                highlight=False,
                soft_wrap=True,
            )
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: stop.set())
            stop.wait()
            console.print("stopping ...")
    except StackError as error:
        typer.echo(f"trail up: {error}", err=True)
        raise typer.Exit(1) from None
    console.print("stopped")
