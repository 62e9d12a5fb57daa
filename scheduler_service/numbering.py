"""Which messages of an engine's predictions channel are news."""

from __future__ import annotations

from typing import Literal

Heard = Literal["next", "gap", "epoch", "repeated"]

_IN_ORDER = 3


class Numbering:
    """Messages are numbered within an epoch, and counters of epochs rise within an engine's life.

    What is not above the newest is a repeat. But one damaged number must not make repeats of all that follow: where
    some come that are each the next of the other, what was taken for the newest never was.
    """

    def __init__(self) -> None:
        self._newest: tuple[int, int] | None = None
        self._late: tuple[int, int] | None = None
        self._late_in_order = 0

    def forget(self) -> None:
        """Whatever comes next is news."""
        self._newest = self._late = None

    def hear(self, counter: int, number: int) -> Heard:
        """What a message is: the one that had to come, one after others that were not heard (``gap``), the first heard
        of another epoch, or a repeat."""
        here, before = (counter, number), self._newest
        if before is not None and here <= before:
            self._late_in_order = self._late_in_order + 1 if self._late == (counter, number - 1) else 1
            self._late = here
            if self._late_in_order < _IN_ORDER:
                return "repeated"
        self._newest, self._late = here, None
        if before is None or before == (counter, number - 1):
            return "next"
        return "gap" if before[0] == counter else "epoch"
