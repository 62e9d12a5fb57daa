"""What ``--trace`` names."""

from __future__ import annotations

from pathlib import Path

from sidecar.cli.simulate.errors import SimulateError
from sidecar.cli.simulate.loads import Drawn, Load, Trace
from sidecar.cli.simulate.traces import read_trace
from sidecar.cli.simulate.workload import Workload

ALPACA = "alpaca"
ARRIVALS = "poisson", "gamma", "burst"


def parse_load(text: str) -> Load:
    """Reads ``FILE``, ``poisson:LENGTHS``, ``poisson:LENGTHS?cv=3``, ``gamma:LENGTHS:CV`` or ``burst:LENGTHS``;
    LENGTHS is ``alpaca`` or a trace file whose lengths are drawn with replacement.

    Raises:
        SimulateError: none of these, or the file is bad.
    """
    process, lengths, given = _parts(text)
    if not process:
        return Trace(_read(text))
    if not lengths:
        raise SimulateError(f"--trace {text}: names no lengths, as in {process}:alpaca{':3' * (process == 'gamma')}")
    cv = 1.0 if given is None else _cv(text, given)
    return Drawn(cv, process == "burst", None if lengths == ALPACA else _read(lengths))


def file_of(text: str) -> Path | None:
    """The file that a load is read from, if any."""
    _, lengths, _ = _parts(text)
    return None if lengths == ALPACA else Path(lengths)


def _parts(text: str) -> tuple[str, str, str | None]:
    """Process (empty: a recorded trace), lengths, and what is given as the coefficient of variation."""
    process, colon, rest = text.partition(":")
    if not colon or process not in ARRIVALS:
        return "", text, None
    if process == "gamma":
        lengths, _, cv = rest.rpartition(":")
        return process, lengths, cv
    lengths, _, cv = rest.partition("?cv=") if process == "poisson" else (rest, "", "")
    return process, lengths, cv or None


def _read(text: str) -> Workload:
    path = Path(text)
    if not path.is_file():
        raise SimulateError(f"--trace {text}: no such file, and not one of {', '.join(f'{p}:...' for p in ARRIVALS)}")
    return read_trace(path)


def _cv(text: str, given: str) -> float:
    try:
        cv = float(given)
    except ValueError:
        cv = -1.0
    if not 0.05 <= cv <= 100:
        raise SimulateError(f"--trace {text}: cv: {given!r} is not a number within 0.05 to 100")
    return cv
