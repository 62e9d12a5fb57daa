"""Bounded overtaking: how much service later arrivals may get before a waiting request is let ahead of all of them.

For a request that arrived at a, S(a) is the service that requests which arrived after a have got so far, in seconds of
the whole engine (one place for one step of d seconds: d / places). Its wait exceeds first come, first served by at most
S(a). S falls with a, so those that have been overtaken by more than the bound are simply those who arrived up to some
moment; that moment only ever moves on.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort

from scheduler_service.view import Floats


class Overtaking:
    """Follows the moment for one engine; a bound of 0: nobody is ever let ahead.

    Memory: one entry for each moment at which somebody arrived since the oldest living request did.
    """

    def __init__(self, places: int) -> None:
        self._before_s = -math.inf
        self._place = 1 / max(places, 1)
        self._later_s = 0.0
        self._service_s: dict[float, float] = {}
        self._arrivals: list[float] = []
        self._passed = 0

    def arrived(self, arrival_s: float) -> None:
        """A request came. Arrivals nearly come in order, so this appends."""
        if arrival_s > self._before_s and arrival_s not in self._service_s:
            insort(self._arrivals, arrival_s, lo=self._passed)
            self._service_s[arrival_s] = 0.0

    def served(self, arrivals_s: Floats, duration_s: float) -> None:
        """Requests that arrived then [running] each held a place for a step of ``duration_s``."""
        service_s = duration_s * self._place
        for arrival_s in arrivals_s[arrivals_s > self._before_s].tolist():
            self._service_s[arrival_s] += service_s
            self._later_s += service_s

    def overtaken_s(self, arrival_s: float) -> float:
        """S(a) of a living request that arrived then; +inf where it is let ahead already."""
        if arrival_s <= self._before_s:
            return math.inf
        end = bisect_right(self._arrivals, arrival_s, lo=self._passed)
        return self._later_s - sum(self._service_s[each] for each in self._arrivals[self._passed : end])

    def let_ahead(self, bound_s: float, oldest_s: float) -> float:
        """The moment up to which arrivals have been overtaken by ``bound_s`` or more, -inf: none.

        ``oldest_s`` is the arrival of the oldest living request: what came before it says nothing any more.
        """
        while self._passed < len(self._arrivals):
            arrival_s = self._arrivals[self._passed]
            if not (arrival_s < oldest_s or self._later_s - self._service_s[arrival_s] >= bound_s > 0):
                break
            self._later_s -= self._service_s.pop(arrival_s)
            self._passed += 1
            self._before_s = arrival_s
        if self._passed > 1024 and 2 * self._passed > len(self._arrivals):
            del self._arrivals[: self._passed]
            self._passed = 0
        return self._before_s if bound_s > 0 else -math.inf
