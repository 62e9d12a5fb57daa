"""The store's clock, which all replicas share, between two looks at it."""

from __future__ import annotations

import time

JUMP_S = 0.5


class StoreClock:
    """The store's time goes on by this host's monotonic clock; what sets the host's wall clock moves nothing."""

    def __init__(self) -> None:
        self._ahead_s: float | None = None

    def now_s(self) -> float:
        """Seconds since the Unix epoch, as the store counts them; before the first look, as this host does."""
        return time.time() if self._ahead_s is None else time.monotonic() + self._ahead_s

    def looked(self, store_s: float, asked_at_s: float, answered_at_s: float) -> float:
        """Takes in the store's time, asked and answered at these monotonic times. Returns by how much it jumped: more
        than the way there and back and half a second can explain, forwards or back; 0: it did not."""
        ahead_s = store_s - (asked_at_s + answered_at_s) / 2
        before_s, self._ahead_s = self._ahead_s, ahead_s
        if before_s is None or abs(ahead_s - before_s) <= JUMP_S + (answered_at_s - asked_at_s):
            return 0.0
        return ahead_s - before_s
