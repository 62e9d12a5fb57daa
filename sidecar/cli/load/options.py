"""What a load is, as the command, its processes and the benchmarks tell it to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class LoadOptions:
    """`engines` engines of `requests` running and `waiting` waiting requests, one step each `step_ms`."""

    predictor: str = "127.0.0.1:50061"
    scheduler: str = "127.0.0.1:50062"
    engines: int = 4
    requests: int = 32
    waiting: int = 8
    dim: int = 0
    """Values of a row; 0: as the model says."""
    step_ms: float = 10.0
    duration_s: float = 30.0
    output_tokens: float = 200.0
    model: str = ""
    projection: str = ""
    processes: int = 1
    seed: int = 0
    prefix: str = "load"
    """Of the engines' names."""


class Gap(NamedTuple):
    """A time in which an engine had no fresh prediction."""

    ended_s: float
    """Unix time at which predictions came again."""
    seconds: float
    engine_id: str
