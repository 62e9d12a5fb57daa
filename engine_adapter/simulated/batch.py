"""The running requests' progress as arrays, so that a step of many requests costs a few array operations."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from engine_adapter.simulated.request import SimulatedRequest

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Handles = npt.NDArray[np.uint64]

HANDLE, PROMPT, OUTPUT, AGE, COMPUTED, LOST, RECOMPUTED = range(7)


class Batch:
    """N running requests; row i of every array is ``requests[i]``. Arrays are views [N], in tokens: writing changes
    the batch."""

    def __init__(self, slots: int) -> None:
        self.requests: list[SimulatedRequest] = []
        self._table = np.zeros((7, slots), np.int64)

    def __len__(self) -> int:
        return len(self.requests)

    @property
    def handles(self) -> Handles:
        handles: Handles = self._table[HANDLE].view(np.uint64)[: len(self.requests)]
        return handles

    @property
    def age(self) -> Ints:
        return self._table[AGE, : len(self.requests)]

    @property
    def computed(self) -> Ints:
        """Tokens whose KV entries exist."""
        return self._table[COMPUTED, : len(self.requests)]

    @property
    def output(self) -> Ints:
        """Tokens that each will generate in all."""
        return self._table[OUTPUT, : len(self.requests)]

    @property
    def lost(self) -> Ints:
        """KV entries that the newest preemption discarded and that are not back yet."""
        return self._table[LOST, : len(self.requests)]

    @property
    def recomputed(self) -> Ints:
        return self._table[RECOMPUTED, : len(self.requests)]

    def prefilling(self) -> Bools:
        """[N]: has prompt tokens without KV entries."""
        table = self._table[:, : len(self.requests)]
        below: Bools = table[COMPUTED] < table[PROMPT]
        return below

    def missing(self) -> Ints:
        """[N] tokens without KV entries: 1 for a request that decodes, more for one in prefill."""
        table = self._table[:, : len(self.requests)]
        tokens: Ints = table[PROMPT] + table[AGE]
        tokens -= table[COMPUTED]
        return tokens

    def age_of(self, request: SimulatedRequest) -> int:
        return int(self._table[AGE, self.requests.index(request)])

    def computed_of(self, request: SimulatedRequest) -> int:
        return int(self._table[COMPUTED, self.requests.index(request)])

    def recomputed_of(self, request: SimulatedRequest) -> int:
        return int(self._table[RECOMPUTED, self.requests.index(request)])

    def add(self, request: SimulatedRequest, cached_tokens: int) -> None:
        """Puts a request behind the others; KV entries of its first ``cached_tokens`` tokens exist."""
        back = max(request.parked_lost_tokens - cached_tokens, 0)
        self._table[:, len(self.requests)] = (
            np.uint64(request.handle).astype(np.int64), request.prompt_tokens, request.output_tokens,
            request.parked_age_tokens, cached_tokens, back, request.parked_recomputed_tokens,
        )  # fmt: skip
        self.requests.append(request)
        request.batch = self

    def keep(self, rows: Bools | Ints) -> list[SimulatedRequest]:
        """Keeps these rows, in the order given where they are numbers, and returns the others, which know then how
        far they came."""
        numbers = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        gone_rows = np.ones(len(self.requests), np.bool_)
        gone_rows[numbers] = False
        gone = []
        for row in np.flatnonzero(gone_rows).tolist():
            request = self.requests[row]
            request.batch = None
            request.parked_age_tokens = int(self._table[AGE, row])
            request.parked_recomputed_tokens = int(self._table[RECOMPUTED, row])
            gone.append(request)
        kept = self._table[:, numbers]
        self._table[:, : numbers.size] = kept
        self.requests = [self.requests[row] for row in numbers.tolist()]
        return gone
