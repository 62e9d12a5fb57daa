"""The requests alive in the engine, as its events tell."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import structlog

from engine_adapter.agent.counters import Counters
from engine_adapter.records import Arrived, Step
from trail.v1 import engine_pb2

PROMPT_BUDGET_TOKENS = 8 << 20
"""Prompt tokens kept for declaring requests again; what exceeds it is declared without ids."""


class LivingRequests:
    """handle -> what was declared, with the newest age. Bounded in requests and in prompt tokens."""

    def __init__(self, max_requests: int, counters: Counters) -> None:
        self._max_requests = max_requests
        self._counters = counters
        self._requests: dict[int, Arrived] = {}
        self._prompt_tokens: dict[int, int] = {}
        self._ids_kept = 0
        self._ages: dict[int, int] = {}
        self._log = structlog.get_logger("requests")

    def __len__(self) -> int:
        return len(self._requests)

    def __contains__(self, handle: object) -> bool:
        return handle in self._requests

    def arrived(self, request: Arrived) -> bool:
        """Adds a request; False when it cannot be declared.

        That is: a living request of another id has its handle, or too many are alive. The engine serves it all the
        same, where its own order puts it. A request that is declared again is no news, and False too.
        """
        known = self._requests.get(request.handle)
        if known is not None:
            if known.request_id != request.request_id:
                self._counters.handle_collisions += 1
                self._log.warning("not declared", request_id=request.request_id, same_handle_as=known.request_id)
            return False
        if len(self._requests) >= self._max_requests:
            self._counters.requests_undeclared += 1
            self._log.debug("not declared", request_id=request.request_id, living_requests=len(self._requests))
            return False
        self._requests[request.handle] = self._within_budget(request)
        self._prompt_tokens[request.handle] = len(request.prompt_token_ids)
        self._ages[request.handle] = request.age_tokens
        return True

    def stepped(self, step: Step) -> None:
        """Notes the ages of the running batch."""
        known = self._requests
        pairs = zip(step.running.tolist(), step.ages.tolist(), strict=True)
        self._ages.update((handle, age) for handle, age in pairs if handle in known)

    def finished(self, handle: int) -> Arrived | None:
        """Removes a request; None when it was never declared."""
        self._ages.pop(handle, None)
        self._prompt_tokens.pop(handle, None)
        request = self._requests.pop(handle, None)
        if request is not None:
            self._ids_kept -= len(request.prompt_token_ids)
        return request

    def clear(self) -> None:
        self._requests.clear()
        self._prompt_tokens.clear()
        self._ages.clear()
        self._ids_kept = 0

    def age(self, handle: int) -> int:
        return self._ages.get(handle, 0)

    def known(self, handles: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Which of ``handles`` [N] are alive: a mask [N]."""
        return np.fromiter((handle in self._requests for handle in handles.tolist()), np.bool_, len(handles))

    def declarations(self) -> Iterator[engine_pb2.RequestDeclaration]:
        """Every living request at its newest age, in order of arrival."""
        for handle, request in self._requests.items():
            yield declaration(request, self._ages[handle], self._prompt_tokens[handle])

    def _within_budget(self, request: Arrived) -> Arrived:
        """The request, without its prompt's ids where too many are kept already."""
        if self._ids_kept + len(request.prompt_token_ids) > PROMPT_BUDGET_TOKENS:
            request = replace(request, prompt_token_ids=np.zeros(0, np.uint32))
        self._ids_kept += len(request.prompt_token_ids)
        return request


def declaration(request: Arrived, age_tokens: int, prompt_tokens: int) -> engine_pb2.RequestDeclaration:
    """The request as the services learn of it."""
    return engine_pb2.RequestDeclaration(
        handle=request.handle,
        request_id=request.request_id,
        prompt_token_ids=request.prompt_token_ids.tolist(),
        prompt_tokens=prompt_tokens,
        age_tokens=age_tokens,
        arrival_time_s=request.arrival_time_s,
        priority=request.priority,
        tenant=request.tenant,
        max_tokens=request.max_tokens,
        declared_output_tokens=request.declared_output_tokens,
    )
