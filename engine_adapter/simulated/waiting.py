"""The waiting requests: in order of arrival, with the head of a plan in front of it while there is one."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence

from engine_adapter.simulated.request import SimulatedRequest

_Entry = tuple[float, int, SimulatedRequest]


class WaitingRequests:
    """Requests that a plan does not name follow those that it names, first come first."""

    def __init__(self) -> None:
        self._by_handle: dict[int, SimulatedRequest] = {}
        self._entry_of: dict[int, _Entry] = {}
        self._by_arrival: list[_Entry] = []
        self._count = 0
        self._head: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self._by_handle)

    def __iter__(self) -> Iterator[SimulatedRequest]:
        """Best first; whoever is served may be taken out meanwhile."""
        yield from filter(None, map(self._by_handle.get, self._head))
        named = set(self._head)
        yield from (request for _, _, request in tuple(self._by_arrival) if request.handle not in named)

    def get(self, handle: int) -> SimulatedRequest | None:
        return self._by_handle.get(handle)

    def follow(self, handles: Sequence[int]) -> None:
        """Serves these first, in this order; those that do not wait are passed over."""
        self._head = handles

    def add(self, request: SimulatedRequest) -> None:
        self._count += 1
        entry = (request.arrival_s, self._count, request)
        self._by_handle[request.handle] = request
        self._entry_of[request.handle] = entry
        insort(self._by_arrival, entry)

    def remove(self, request: SimulatedRequest) -> None:
        del self._by_handle[request.handle]
        entry = self._entry_of.pop(request.handle)
        del self._by_arrival[bisect_left(self._by_arrival, entry)]
