"""Blocks of time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scheduler_service.experiments.design import Design


@dataclass(frozen=True, slots=True)
class Timeline:
    """When the blocks of a design are, on the store's clock (seconds)."""

    design: Design
    start_s: float

    @property
    def end_s(self) -> float:
        return self.start_s + self.design.duration_s

    def block_at(self, now_s: float) -> int | None:
        """The block that is on; None before the first and after the last."""
        block = math.floor((now_s - self.start_s) / self.design.block_s)
        return block if 0 <= block < self.design.blocks else None

    def counted_in(self, arrival_s: float) -> int | None:
        """The block to which a request belongs by its arrival; None in a washout. Nothing that happens to the
        request has a say in this, or an arm that delays requests would lose its worst ones."""
        block = self.block_at(arrival_s)
        if block is None:
            return None
        into_s = arrival_s - self.start_s - block * self.design.block_s
        measured = self.design.washout_s <= into_s < self.design.block_s - self.design.washout_s
        return block if measured else None

    def closed(self, block: int, now_s: float) -> bool:
        """Whether the block is over, with a washout more for the last of its requests."""
        return now_s >= self.start_s + (block + 1) * self.design.block_s + self.design.washout_s

    def newest_closed(self, now_s: float) -> int:
        """-1 before there is one."""
        since_s = now_s - self.design.washout_s - self.start_s
        return min(math.floor(since_s / self.design.block_s), self.design.blocks) - 1

    def blocks_between(self, low_s: float, high_s: float) -> range:
        """Those that any moment from one to the other is in."""
        first, last = (math.floor((at_s - self.start_s) / self.design.block_s) for at_s in (low_s, high_s))
        return range(max(first, 0), min(last, self.design.blocks - 1) + 1)

    @property
    def measured_s(self) -> float:
        """Of each block."""
        return self.design.block_s - 2 * self.design.washout_s
