"""What a check found, as a table for people and as JSON for machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


class Broken(Exception):
    """The contract was not kept: what should have been seen, and what was."""

    def __init__(self, expected: str, seen: str) -> None:
        super().__init__(f"expected {expected}; seen: {seen}")
        self.expected, self.seen = expected, seen


@dataclass(frozen=True, slots=True)
class Verdict:
    """One check. `expected` is the promise, or where it was broken, what exactly should have been seen."""

    check: str
    passed: bool
    expected: str
    seen: str = ""


def as_dict(target: str, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Everything, for `--json`."""
    checks = [asdict(verdict) for verdict in verdicts]
    return {"target": target, "passed": all(verdict.passed for verdict in verdicts), "checks": checks}


def show(verdicts: Sequence[Verdict], console: Console) -> None:
    """One row a check; the whole text, however long."""
    table = Table(box=None, pad_edge=False)
    for heading in ("", "check", "expected", "seen"):
        table.add_column(heading, overflow="fold")
    for verdict in verdicts:
        mark = Text("pass", "green") if verdict.passed else Text("FAIL", "bold red")
        table.add_row(mark, verdict.check, Text(verdict.expected), Text(verdict.seen))
    console.print(table)
    failed = sum(not verdict.passed for verdict in verdicts)
    console.print(f"{len(verdicts) - failed} of {len(verdicts)} checks pass", highlight=False)
