"""When each report to the scheduler was sent, until a plan comes that takes it into account."""

from __future__ import annotations

from collections import deque

APART_NS = 10_000_000
"""Reports that follow each other more closely count as one."""
KEPT = 2048
"""Twenty seconds of them at least: more than any plan lives."""


class Reports:
    """Tells how old a plan's knowledge of the engine is, by this host's clock alone. Times are monotonic nanoseconds.

    A scheduler whose plans come through, but that hears nothing, would otherwise steer by an engine of long ago.
    """

    def __init__(self) -> None:
        self._unheard: deque[tuple[int, int]] = deque(maxlen=KEPT)
        """Step and time of sending, in order of both."""

    def opened(self) -> None:
        """A stream begins: it was told everything."""
        self._unheard.clear()

    def sent(self, step: int, now_ns: int) -> None:
        """A report of this number goes out."""
        if not self._unheard or now_ns - self._unheard[-1][1] >= APART_NS:
            self._unheard.append((step, now_ns))

    def age_ns(self, step: int, now_ns: int) -> int:
        """Since when a plan is out of date that takes reports up to ``step`` into account; 0: it is not."""
        while self._unheard and self._unheard[0][0] <= step:
            self._unheard.popleft()
        return now_ns - self._unheard[0][1] if self._unheard else 0
