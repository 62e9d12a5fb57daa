"""The waiting queue: the engine's own order, with the head of a plan in front of it while there is one."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from itertools import islice

from vllm.v1.core.sched.request_queue import RequestQueue
from vllm.v1.request import Request


class PlannedQueue(RequestQueue):
    """First come, first served, until a plan says who comes first.

    The plan names the head only, so applying it costs what the plan is long, however many requests wait. Requests that
    it does not name follow in the engine's own order, in which everybody keeps a place: dropping the plan restores it.
    """

    def __init__(self, requests: Iterable[Request] = ()) -> None:
        self._own: OrderedDict[str, Request] = OrderedDict()
        self._places: dict[str, int] = {}
        """In the engine's own order, lowest first; kept of who is taken, for the engine may give them back."""
        self._first = self._last = 0
        self._scattered = False
        """Whether ``_own`` has to be put into the order of ``_places`` again."""
        self._head: deque[str] = deque()
        self._rest: Iterator[str | None] = iter(())
        """What the plan names behind ``_head``: looked at as far as places are free."""
        self._held: list[Request] = []
        self._closed = False
        self.overtook = False
        """Whether a plan has let somebody go before others who came first."""
        for request in requests:
            self.add_request(request)

    def follow(self, request_ids: Iterable[str | None]) -> None:
        """Serves these first, in this order; ids that do not wait are passed over."""
        self._head, self._rest = deque(), iter(request_ids)

    def add_request(self, request: Request) -> None:
        self._last += 1
        self._places[request.request_id] = self._last
        self._own[request.request_id] = request

    def peek_request(self) -> Request:
        self._bring_up()
        if not self._own:
            raise IndexError("peek from an empty queue")
        if self._head:
            return self._own[self._head[0]]
        self._bring_in_order()
        return next(iter(self._own.values()))

    def _bring_up(self) -> None:
        """Lets ``_head`` begin with a request that waits, if the plan names one."""
        while self._head and self._head[0] not in self._own:
            self._head.popleft()
        if not self._head:
            self._head.extend(islice((name for name in self._rest if name is not None and name in self._own), 1))

    def _bring_in_order(self) -> None:
        if self._scattered:
            self._own = OrderedDict(sorted(self._own.items(), key=lambda item: self._places[item[0]]))
            self._scattered = False

    def pop_request(self) -> Request:
        if not self._own:
            raise IndexError("pop from an empty queue")
        request = self.peek_request()
        if self._head:
            self._head.popleft()
        self.overtook = self.overtook or next(iter(self._own)) != request.request_id
        return self._own.pop(request.request_id)

    def prepend_request(self, request: Request) -> None:
        """Puts a request first, in front of a plan too: the engine has to take it back."""
        self.restore_request(request)
        self._head.appendleft(request.request_id)

    def restore_request(self, request: Request) -> None:
        """Puts a request first in the engine's own order, behind the head of a plan."""
        self._first -= 1
        self._places[request.request_id] = self._first
        self._own[request.request_id] = request
        self._own.move_to_end(request.request_id, last=False)

    def prepend_requests(self, requests: Iterable[Request]) -> None:
        """Takes back requests that the engine passed over for now, the last first: to the front of a plan, and to the
        places that they have in the engine's own order."""
        for request in requests:
            name, first = request.request_id, next(iter(self._own), None)
            self._scattered = self._scattered or (first is not None and self._places[first] < self._places[name])
            self._own[name] = request
            self._own.move_to_end(name, last=False)
            self._head.appendleft(name)

    def remove_request(self, request: Request) -> None:
        if self._own.pop(request.request_id, None) is None:
            raise ValueError(f"request {request.request_id} does not wait")

    def remove_requests(self, requests: Iterable[Request]) -> None:
        for request in requests:
            self._own.pop(request.request_id, None)

    def hold(self, request: Request) -> None:
        """Serves a request that has just been preempted to nobody before `release`; it still counts as waiting."""
        self.remove_request(request)
        if self._head and self._head[0] == request.request_id:
            self._head.popleft()
        self._held.append(request)

    def close(self) -> None:
        """Looks empty to whoever would admit somebody, before `release`; all that wait still count."""
        self._closed = True

    def release(self) -> None:
        self._closed = False
        for request in self._held:
            self.restore_request(request)
        self._held.clear()

    def forget(self, request_id: str) -> None:
        """Gives up the place of a request that has ended."""
        self._places.pop(request_id, None)

    def __contains__(self, request_id: object) -> bool:
        """Whether a request of this id waits."""
        return request_id in self._own

    def __bool__(self) -> bool:
        return bool(self._own) and not self._closed

    def __len__(self) -> int:
        return len(self._own) + len(self._held)

    def __iter__(self) -> Iterator[Request]:
        self._bring_in_order()
        self._head.extend(name for name in self._rest if name is not None)
        first = dict.fromkeys(name for name in self._head if name in self._own)
        yield from (self._own[name] for name in first)
        yield from (request for name, request in self._own.items() if name not in first)
