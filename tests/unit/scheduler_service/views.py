"""Views for tests: a few named columns, everything else plain."""

from typing import Any

import numpy as np

from scheduler_service.view import ROW, Capacity, EngineView

PROMPT_TOKENS = 10


def view_of(*requests: dict[str, Any], **engine: Any) -> EngineView:
    """A view with one row for each dict; handles count from 1, arrivals a second apart, nothing predicted."""
    rows = np.zeros(len(requests), dtype=ROW)
    rows["handle"] = np.arange(1, len(requests) + 1)
    rows["arrival_s"] = 1000.0 + np.arange(len(requests))
    rows["prompt_tokens"] = PROMPT_TOKENS
    rows["predicted_at_age"] = rows["age_at_preemption"] = -1
    for row, request in zip(rows, requests, strict=True):
        for name, value in request.items():
            row[name] = value
    columns = {name: np.ascontiguousarray(rows[name]) for name in ROW.names or ()}
    return EngineView(**columns, **engine)


def running(age: int, remaining: float, total: float | None = None, **more: Any) -> dict[str, Any]:
    """A running request whose newest prediction was made now; all its KV entries exist."""
    return waiting(remaining, age, total) | {
        "running": True,
        "computed_tokens": PROMPT_TOKENS + max(age - 1, 0),
    } | more  # fmt: skip


def waiting(remaining: float, age: int = 0, total: float | None = None, **more: Any) -> dict[str, Any]:
    """A waiting request whose newest prediction was made now."""
    r = age + remaining if total is None else total
    return {"age": age, "mean": remaining, "median": remaining, "predicted_at_age": age, "r0": r, "r1": r} | more


def full(slots: int, **more: int) -> Capacity:
    """Room for so many running requests, KV without end."""
    return Capacity(max_running_requests=slots, **more)
