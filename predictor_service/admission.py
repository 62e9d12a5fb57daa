"""Whether this replica has room for one more engine: how busy it is, over the last seconds."""

import asyncio
import math
import time

from predictor_service import metrics

_LOOK_S = 0.1
_MEMORY_S = 2.0


class Admission:
    """Rows a second, and how long work waits for its turn. A replica that is full by either takes no new engine, for
    that would slow all that it serves; limits of 0 are none."""

    def __init__(self, *, most_rows_per_s: float = 0.0, most_queue_ms: float = 0.0) -> None:
        self._most_rows_per_s, self._most_queue_ms = most_rows_per_s, most_queue_ms
        self._rows = 0
        self._looked_s = time.monotonic()
        self.rows_per_s = self.queue_ms = 0.0

    def took(self, rows: int) -> None:
        """Rows came."""
        self._rows += rows

    @property
    def refusal(self) -> str:
        """Why no further engine is taken; empty: there is room."""
        for name, value, most in (
            ("max_rows_per_s", self.rows_per_s, self._most_rows_per_s),
            ("max_queue_ms", self.queue_ms, self._most_queue_ms),
        ):
            if most and value > most:
                return f"this replica is full: {value:.4g} is more than {name} ({most:g})"
        return ""

    async def watch(self) -> None:
        """Looks ten times a second until cancelled. Everything here takes turns in one loop, so that what is late to
        run says how long a message waits."""
        while True:
            due_s = time.monotonic() + _LOOK_S
            await asyncio.sleep(_LOOK_S)
            self.look(time.monotonic(), due_s)

    def look(self, now_s: float, due_s: float) -> None:
        """One look, at `now_s` where it was due at `due_s`."""
        passed_s, self._looked_s = now_s - self._looked_s, now_s
        rows, self._rows = self._rows, 0
        if passed_s <= 0:
            return
        fresh = 1 - math.exp(-passed_s / _MEMORY_S)
        self.rows_per_s += fresh * (rows / passed_s - self.rows_per_s)
        self.queue_ms += fresh * (max(now_s - due_s, 0.0) * 1000 - self.queue_ms)
        metrics.QUEUE_SECONDS.set(self.queue_ms / 1000)
