"""How busy this replica is: whether it has room for one more engine, and how many it has too many."""

import asyncio
import math
import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from predictor_service import metrics

_LOOK_S = 0.1
_LOOKS = 20
_LOOKS_ENOUGH = 5
_SPAN_ENOUGH_S = 1.0
"""With fewer looks, or over less time, nothing is known well enough to refuse anybody or send him away."""
_ROOM = 0.75
"""Share of a limit at which no further engine is taken: what is left is for those that are here to grow."""
_SETTLE_S = 10.0
_GROWTH = 1.125


@dataclass(frozen=True)
class Surplus:
    """So many engines are too many, because of the limit of that name; `reason` is for whoever is told."""

    engines: int = 0
    limit: str = ""
    reason: str = ""


class Admission:
    """Rows a second, and how long work waits for its turn, over the last two seconds or more; limits of 0 are none.

    Near a limit no new engine is taken. Above it, half of what is too much is sent away, and what remains is looked at
    afresh; the others are taken back slowly (an eighth more engines every ten seconds), lest they come and go. One
    engine is always served: late predictions are worth more than none.
    """

    def __init__(self, *, most_rows_per_s: float = 0.0, most_queue_ms: float = 0.0) -> None:
        self._most = {"max_rows_per_s": most_rows_per_s, "max_queue_ms": most_queue_ms}
        self._rows = 0
        self._looked_s = time.monotonic()
        self._looks: deque[tuple[int, float, float]] = deque(maxlen=_LOOKS)
        """Of each look: rows and seconds since the one before, seconds waited."""
        self._most_engines = math.inf
        self._settled_s = 0.0

    def took(self, rows: int) -> None:
        """Rows came."""
        self._rows += rows

    @property
    def rows_per_s(self) -> float:
        return sum(rows for rows, _, _ in self._looks) / max(self._span_s, _LOOK_S)

    @property
    def queue_ms(self) -> float:
        """The median: a moment in which the machine stood still is no queue."""
        return 1000 * statistics.median(waited_s for _, _, waited_s in self._looks) if self._looks else 0.0

    def refusal(self, engines: int) -> str:
        """Why no further engine is taken where so many are served; empty: there is room."""
        share, name = self._busiest
        if engines and engines >= self._most_engines:
            return f"this replica is full: {engines} engines are as many as it served well"
        if engines and share > _ROOM and self._seen_enough:
            return f"this replica is full: {self._told(share, name)}"
        return ""

    def surplus(self, engines: int) -> Surplus:
        """How many of the engines with an open stream should go, now."""
        if not self._seen_enough:
            return Surplus()
        share, name = self._busiest
        if share <= _ROOM and self._looked_s >= self._settled_s:
            self._most_engines = max(self._most_engines + 1, self._most_engines * _GROWTH)
            self._settled_s = self._looked_s + _SETTLE_S
        if share <= 1 or engines <= 1:
            return Surplus()
        found = Surplus(max(1, int(engines * (1 - 1 / share) / 2)), name, self._told(share, name))
        self._looks.clear()
        self._most_engines = engines - found.engines
        self._settled_s = self._looked_s + _SETTLE_S
        return found

    async def watch(self, after_look: Callable[[], None]) -> None:
        """Looks ten times a second until cancelled. A look goes the way of a message, through the loop, into the pool
        of threads and back, so that how late it is says how long messages wait."""
        while True:
            due_s = time.monotonic() + _LOOK_S
            await asyncio.sleep(_LOOK_S)
            await asyncio.to_thread(time.monotonic)
            self.look(time.monotonic(), due_s)
            after_look()

    def look(self, now_s: float, due_s: float) -> None:
        """One look, at `now_s` where it was due at `due_s`."""
        passed_s, self._looked_s = now_s - self._looked_s, now_s
        rows, self._rows = self._rows, 0
        self._looks.append((rows, max(passed_s, 0.0), max(now_s - due_s, 0.0)))
        metrics.QUEUE_SECONDS.set(self.queue_ms / 1000)

    @property
    def _seen_enough(self) -> bool:
        return len(self._looks) >= _LOOKS_ENOUGH and self._span_s >= _SPAN_ENOUGH_S

    @property
    def _span_s(self) -> float:
        return sum(passed_s for _, passed_s, _ in self._looks)

    @property
    def _busiest(self) -> tuple[float, str]:
        """The share of its limit that is used, and that limit's name."""
        used = {"max_rows_per_s": self.rows_per_s, "max_queue_ms": self.queue_ms}
        return max((used[name] / most if most else 0.0, name) for name, most in self._most.items())

    def _told(self, share: float, name: str) -> str:
        most = self._most[name]
        return f"{share * most:.4g} of at most {most:g} ({name})"
