"""Times as people write and read them."""

from __future__ import annotations

import re
from datetime import datetime

from sidecar.cli.ab.errors import AbError

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(option: str, text: str) -> float:
    """Of `90`, `90s`, `30m`, `2h` or `1d`. Raises AbError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?", text.strip())
    if found is None:
        raise AbError(f"{option} {text!r}: not a time, as 90s, 30m, 2h or 1d")
    return float(found[1]) * _UNITS_S[found[2] or "s"]


def duration(value_s: float) -> str:
    """In its two largest units: `2 h 30 min`."""
    if value_s < 60:
        return f"{value_s:.3g} s"
    parts, rest = [], round(value_s)
    for name, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count} {name}")
    return " ".join(parts[:2])


def clock(at_s: float) -> str:
    """Local time."""
    return datetime.fromtimestamp(at_s).astimezone().strftime("%Y-%m-%d %H:%M:%S")
