"""``trail up``: store, predictor and scheduler in one terminal."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import typer
from rich.console import Console

from sidecar import log
from sidecar.cli.stack import StackError, is_free, running_stack
from sidecar.cli.top import METRICS_PORTS
from sidecar.redis_url import without_password


def run_up(host: str, predictor_port: int, scheduler_port: int, redis_url: str | None, model_dir: Path | None) -> None:
    """Runs until SIGINT or SIGTERM."""
    log.configure(format=log.like("scheduler"))
    console = Console()
    stop = threading.Event()
    # Until all is up, Ctrl-C interrupts; afterwards it ends in order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console.print("starting store, predictor and scheduler ...")
    try:
        metrics_ports = _metrics_port("predictor", host), _metrics_port("scheduler", host)
        with running_stack(
            host, predictor_port, scheduler_port, redis_url, model_dir, metrics_ports=metrics_ports
        ) as stack:
            shown = " ".join(f"{host}:{port}" for port in metrics_ports if port)
            console.print(
                f"[bold green]ready[/]  predictor {stack.predictor}  scheduler {stack.scheduler}"
                f"  store {without_password(stack.redis_url)}"
                f"\nattach an engine: trail serve MODEL --predictor {stack.predictor} --scheduler {stack.scheduler}"
                + (f"\nwatch it: trail top {shown}" if shown else "")
                + "\nCtrl-C ends",
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


def _metrics_port(service: str, host: str) -> int:
    """The usual one; 0 where the environment names another, or another stack has it: metrics are worth no refusal."""
    port, variable = METRICS_PORTS[service], f"TRAIL_{service.upper()}_METRICS_PORT"
    if variable in os.environ:
        return 0
    if is_free(host, port):
        return port
    typer.echo(
        f"trail up: no metrics of the {service}: {host}:{port} is taken; {variable} names another port", err=True
    )
    return 0
