"""x"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    max_rows: int
    max_requests: int
