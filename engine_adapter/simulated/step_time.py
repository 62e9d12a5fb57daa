"""How long a step takes, as a linear function of what it computes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of a step: ``a_s + b_s * batch + c_s * prefill tokens + d_s * KV tokens``; see ``StepLoad``.

    A step with any prefill takes ``e_s`` more, for an engine runs it without its full CUDA graph, and one of more than
    ``graph_tokens`` tokens ``f_s`` on top, for then it has no graph at all (measured, a small model on an H100: 4.5 ms
    without prefill, 11 ms with 5 tokens of it as with 60, 22 ms beyond).
    """

    a_s: float
    b_s: float = 0.0
    c_s: float = 0.0
    d_s: float = 0.0
    e_s: float = 0.0
    f_s: float = 0.0
    graph_tokens: int = 0

    def __post_init__(self) -> None:
        for name in ("a_s", "b_s", "c_s", "d_s", "e_s", "f_s"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: {getattr(self, name)} is not a time of 0 s or more")
        if self.a_s == 0:
            raise ValueError("a_s: 0, but a step of nothing takes time too")

    def of(self, batch: Any, prefill_tokens: Any, kv_tokens: Any) -> Any:
        """Seconds; takes numbers, or arrays of one shape."""
        mixed_s = self.e_s * (prefill_tokens > 0)
        if self.f_s:
            mixed_s = mixed_s + self.f_s * beyond_graphs(batch, prefill_tokens, self.graph_tokens)
        return self.a_s + self.b_s * batch + self.c_s * prefill_tokens + self.d_s * kv_tokens + mixed_s


def beyond_graphs(batch: Any, prefill_tokens: Any, graph_tokens: int) -> Any:
    """Whether a step holds more tokens than there is a graph for; only prefill makes it so."""
    return (prefill_tokens > 0) & (batch + prefill_tokens > graph_tokens)


def constant(step_s: float) -> StepTime:
    """Every step takes as long, whatever it computes."""
    return StepTime(step_s)


def load_step_time(path: Path) -> StepTime:
    """Reads ``{"a_s": ..., "b_s": ..., "c_s": ..., "d_s": ...}``, and maybe ``e_s``, ``f_s`` and
    ``graph_tokens``; other names say where it comes from.

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
        a_s, b_s, c_s, d_s = (float(given[name]) for name in names)
        e_s, f_s = (float(given.get(name, 0.0)) for name in ("e_s", "f_s"))
        return StepTime(a_s, b_s, c_s, d_s, e_s, f_s, int(given.get("graph_tokens", 0)))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
