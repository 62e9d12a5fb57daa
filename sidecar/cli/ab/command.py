"""`trail ab`: the command line of experiments."""

from __future__ import annotations

import typer

from sidecar.cli.ab.manage import create, start, status, stop
from sidecar.cli.ab.report import report
from sidecar.cli.ab.simulate import simulate

app = typer.Typer(
    help="Compares schedulers on live traffic: engines serve one arm a block of time, switching back and forth.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (create, start, status, stop, report, simulate):
    app.command()(command)
