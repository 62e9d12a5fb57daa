"""What kinds of traces call their fields, and in which units they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class Columns:
    """What a kind of trace calls its fields."""

    arrival: str
    prompt: str
    output: str
    seconds: Callable[[Any], float]
    hashes: str | None = None

    @property
    def required(self) -> tuple[str, str, str]:
        return self.arrival, self.prompt, self.output


def number_of(value: Any) -> float:
    """A finite number. Raises TypeError or ValueError where it is none."""
    if isinstance(value, bool):
        raise TypeError("not a number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("not finite")
    return number


def _milliseconds(value: Any) -> float:
    return number_of(value) / 1000


def _timestamp(value: Any) -> float:
    """Seconds of ``2023-11-16 18:15:46.6805900``; seven decimals are more than Python reads."""
    whole, _, decimals = str(value).strip().partition(".")
    at = datetime.fromisoformat(whole).replace(tzinfo=None)
    return (at - datetime(2000, 1, 1)).total_seconds() + (float(f"0.{decimals.rstrip('Z+0:')}0") if decimals else 0.0)


GENERIC = Columns("arrival_s", "prompt_tokens", "output_tokens", number_of)
AZURE = Columns("TIMESTAMP", "ContextTokens", "GeneratedTokens", _timestamp)
MOONCAKE = Columns("timestamp", "input_length", "output_length", _milliseconds, "hash_ids")
KINDS = (GENERIC, AZURE, MOONCAKE)
