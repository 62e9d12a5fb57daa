"""The command: progress while it runs, a table or JSON at the end, also after Ctrl-C."""

from __future__ import annotations

import contextlib
import json

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from sidecar.cli.load.options import LoadOptions
from sidecar.cli.load.run import Load, prepared
from sidecar.cli.load.tally import rows


def run_load(options: LoadOptions, *, as_json: bool) -> None:
    """Raises LoadError where it cannot begin, or a part of it dies."""
    options = prepared(options)
    connected, interrupted = 0, False
    console = Console(stderr=True)
    with Load(options) as load:
        try:
            with console.status(f"connecting {options.engines} engines ..."):
                connected = load.connect()
            if connected < options.engines:
                console.print(f"only {connected} of {options.engines} engines are connected: are the replicas full?")
            load.begin()
            _wait(load, console)
        except KeyboardInterrupt:
            interrupted = True
        connected = load.connected
        with contextlib.suppress(KeyboardInterrupt):
            load.end()
    found = {**load.result(), "engines_connected": connected, "interrupted": interrupted}
    if as_json:
        print(json.dumps(found, indent=1))
        return
    size = f"{options.engines} engines of {options.requests} requests"
    title = f"{size}, {options.dim} values a row, {options.step_ms:g} ms a step"
    table = Table("", f"{found['seconds']:.0f} s" + (", interrupted" if interrupted else ""), title=title)
    for name, value in rows(found):
        table.add_row(name, value)
    Console().print(table)


def _wait(load: Load, console: Console) -> None:
    columns = TextColumn("load"), BarColumn(), TextColumn("{task.fields[now]}"), TimeRemainingColumn()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=load.options.duration_s, now="")

        def tick(passed_s: float) -> None:
            now = load.result()
            text = f"{now['predictions_per_s']:,.0f} predictions/s, {load.connected} engines"
            progress.update(task, completed=passed_s, now=text)

        load.during(load.options.duration_s, tick)
