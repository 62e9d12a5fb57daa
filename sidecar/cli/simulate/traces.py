"""Reading traces: Azure's CSV, Mooncake's JSON lines, and a generic CSV, told apart by their columns."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sidecar.cli.simulate.errors import SimulateError
from sidecar.cli.simulate.trace_columns import AZURE, KINDS, Columns, number_of
from sidecar.cli.simulate.workload import Workload

MAX_TOKENS = 10_000_000


def read_trace(path: Path) -> Workload:
    """Reads a trace; its first request arrives at 0 s. A column ``tenant`` is read where there is one.

    Raises:
        SimulateError: the file, its columns, or a row's field is not as it should be. Rows are counted from 1, a CSV
            file's header not among them.
    """
    try:
        rows = list(_rows(path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SimulateError(f"{path}: {error}") from None
    if not rows:
        raise SimulateError(f"{path}: holds no request")
    columns = _columns_of(path, rows[0])
    arrival_s, prompt, output = [], [], []
    for number, row in enumerate(rows, 1):
        arrival_s.append(_field(path, number, row, columns.arrival, columns.seconds, least=None))
        prompt.append(_tokens(path, number, row, columns.prompt))
        output.append(_tokens(path, number, row, columns.output))
        if number == 1 and columns is not AZURE and arrival_s[0] < 0:
            raise SimulateError(f"{path} row 1: {columns.arrival}: {row[columns.arrival]} is negative")
        if number > 1 and arrival_s[-1] < arrival_s[-2]:
            raise SimulateError(
                f"{path} row {number}: {columns.arrival}: {row[columns.arrival]} is before the row above"
            )
    times = np.array(arrival_s)
    return Workload(
        times - times[0],
        np.array(prompt, np.int64),
        np.array(output, np.int64),
        _hashes(path, rows, columns.hashes),
        tuple(str(row["tenant"] or "") for row in rows) if "tenant" in rows[0] else (),
    )


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        if path.suffix not in (".jsonl", ".json"):
            yield from csv.DictReader(file)
            return
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise SimulateError(f"{path} row {number}: not JSON: {error}") from None
            if not isinstance(row, dict):
                raise SimulateError(f"{path} row {number}: not an object")
            yield row


def _columns_of(path: Path, first: Mapping[str, Any]) -> Columns:
    for kind in KINDS:
        if all(name in first for name in kind.required):
            return kind
    known = "; ".join(",".join(kind.required) for kind in KINDS)
    found = ",".join(str(name) for name in first)
    nearest = max(KINDS, key=lambda kind: sum(name in first for name in kind.required))
    missing = ", ".join(name for name in nearest.required if name not in first)
    raise SimulateError(f"{path} row 1: {missing}: missing (columns are {found}; known are {known})")


def _tokens(path: Path, number: int, row: Mapping[str, Any], name: str) -> int:
    value = _field(path, number, row, name, number_of, least=1)
    if value > MAX_TOKENS:
        raise SimulateError(f"{path} row {number}: {name}: {row[name]} is more than {MAX_TOKENS}")
    if value != int(value):
        raise SimulateError(f"{path} row {number}: {name}: {row[name]} is not a whole number")
    return int(value)


def _field(
    path: Path, number: int, row: Mapping[str, Any], name: str, read: Callable[[Any], float], *, least: int | None
) -> float:
    value = row.get(name)
    if value is None or value == "":
        raise SimulateError(f"{path} row {number}: {name}: missing")
    try:
        found = read(value)
    except (TypeError, ValueError):
        raise SimulateError(f"{path} row {number}: {name}: {value!r} cannot be read") from None
    if least is not None and found < least:
        what = "negative" if found < 0 else f"less than {least}"
        raise SimulateError(f"{path} row {number}: {name}: {value} is {what}")
    return found


def _hashes(path: Path, rows: list[Mapping[str, Any]], name: str | None) -> tuple[tuple[int, ...], ...]:
    if name is None or name not in rows[0]:
        return ()
    hashes = []
    for number, row in enumerate(rows, 1):
        given = row.get(name)
        if not isinstance(given, list) or not all(type(each) is int for each in given):
            raise SimulateError(f"{path} row {number}: {name}: not a list of whole numbers")
        hashes.append(tuple(given))
    return tuple(hashes)
