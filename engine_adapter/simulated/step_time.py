"""How long a step takes, as a linear function of what it computes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of a step: ``a_s + b_s * batch + c_s * prefill tokens + d_s * KV tokens``; see ``StepLoad``."""

    a_s: float
    b_s: float = 0.0
    c_s: float = 0.0
    d_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("a_s", "b_s", "c_s", "d_s"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: {getattr(self, name)} is not a time of 0 s or more")
        if self.a_s == 0:
            raise ValueError("a_s: 0, but a step of nothing takes time too")

    def of(self, batch: Any, prefill_tokens: Any, kv_tokens: Any) -> Any:
        """Seconds; takes numbers, or arrays of one shape."""
        return self.a_s + self.b_s * batch + self.c_s * prefill_tokens + self.d_s * kv_tokens


def constant(step_s: float) -> StepTime:
    """Every step takes as long, whatever it computes."""
    return StepTime(step_s)


def load_step_time(path: Path) -> StepTime:
    """Reads ``{"a_s": ..., "b_s": ..., "c_s": ..., "d_s": ...}``; other names say where it comes from.

    Raises:
        ValueError: no such object, or a field is missing or no time.
    """
    try:
        given = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    names = ("a_s", "b_s", "c_s", "d_s")
    if not isinstance(given, dict):
        raise ValueError(f"{path}: not an object with {', '.join(names)}")
    for name in names:
        if not isinstance(given.get(name), int | float) or isinstance(given.get(name), bool):
            raise ValueError(f"{path}: {name}: {given.get(name)!r} is not a number")
    try:
        return StepTime(*(float(given[name]) for name in names))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
