"""``python -m tests.chaos [fault ...]``: every fault, or those named, one after the other; writes a report."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.chaos import faults, system
from tests.chaos.fault import FAULTS, Fault, Row, measure

LOG_LINES = 40


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="fault", help="only these; part of a name will do")
    parser.add_argument("--out", type=Path, default=Path("out/chaos/report.json"), help="where the report goes")
    parser.add_argument("--repeat", type=int, default=1, help="how often each; the report has the last one that failed")
    given = parser.parse_args()
    chosen = [each for name, each in FAULTS.items() if not given.names or any(part in name for part in given.names)]
    if not chosen:
        parser.error(f"no such fault; there are {', '.join(FAULTS)}")
    console = Console(width=None if sys.stdout.isatty() else 160)
    rows = _measured(chosen * given.repeat, console)
    console.print(_table(rows))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({"faults": {name: row.told() for name, row in rows.items()}}, indent=1) + "\n")
    failed = [name for name, row in rows.items() if not row.passed]
    console.print(f"{len(rows)} faults, {len(failed)} failed{': ' + ', '.join(failed) if failed else ''}; {given.out}")
    return 1 if failed else 0


def _measured(chosen: list[Fault], console: Console) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with system.running() as running, Progress(*columns, console=console) as progress:
        task = progress.add_task("chaos", total=len(chosen))
        for each in chosen:
            progress.update(task, description=each.name)
            begun_s = time.monotonic()
            row = measure(running, each)
            _tell(console, each, row, time.monotonic() - begun_s)
            if not row.passed:
                _tell_logs(console, running)
            if each.name not in rows or rows[each.name].passed:
                rows[each.name] = row
            progress.advance(task)
    return rows


def _tell(console: Console, fault: Fault, row: Row, took_s: float) -> None:
    fallback, recovered = (_ms(value) for value in (row.fallback_ms, row.recovered_ms))
    line = f"{fault.name}: {row.requests} requests, own order {fallback}, plans again {recovered}, {took_s:.1f} s"
    console.print(line if row.passed else f"[red]{line}; {row}")


def _tell_logs(console: Console, running: system.System) -> None:
    for part in (running.predictor, running.scheduler, running.agent):
        lines = part.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        console.print(f"--- {part.log.name}", *lines, sep="\n", markup=False, highlight=False)


def _table(rows: dict[str, Row]) -> Table:
    table = Table("fault", *(("requests", "lost", "changed", "fallback", "recovered", "leaked")))
    for name, row in rows.items():
        counts = (row.requests, row.lost, row.changed_outputs, _ms(row.fallback_ms), _ms(row.recovered_ms))
        table.add_row(name, *map(str, (*counts, row.leaked_states)), style="" if row.passed else "red")
    return table


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"


if __name__ == "__main__":
    assert faults.__all__
    sys.exit(main())
