"""The living requests of one engine as dense rows of one structured array."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from scheduler_service.messages import Declaration
from scheduler_service.view import ROW, Ints


class RequestTable:
    """Rows 0 to len - 1 are alive; a removed row is filled by the last one, so row numbers do not last."""

    def __init__(self) -> None:
        self._rows = np.zeros(64, dtype=ROW)
        self._declared: list[Declaration] = []
        self._row_of_handle: dict[int, int] = {}
        self._handle_of_id: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._declared)

    def __contains__(self, handle: int) -> bool:
        return handle in self._row_of_handle

    @property
    def rows(self) -> np.ndarray[tuple[int, ...], np.dtype[np.void]]:
        """The living rows, [N] of `ROW`; writing changes the table."""
        return self._rows[: len(self)]

    def row(self, handle: int) -> int:
        """Row of a handle, -1 where it is not alive."""
        return self._row_of_handle.get(handle, -1)

    def rows_of(self, handles: Iterable[int]) -> Ints:
        """[M] rows of handles, -1 where one is not alive."""
        get = self._row_of_handle.get
        return np.array([get(handle, -1) for handle in handles], dtype=np.int64)

    def rows_of_ids(self, request_ids: Iterable[str]) -> Ints:
        """[M] rows of request ids, -1 where one is not alive."""
        return self.rows_of(self._handle_of_id.get(request_id, 0) for request_id in request_ids)

    def declaration(self, handle: int) -> Declaration:
        """What the engine said of a living request."""
        return self._declared[self._row_of_handle[handle]]

    def add(self, request: Declaration) -> int:
        """Add a waiting request and return its row; one that is already alive stays as it is."""
        if request.handle in self._row_of_handle:
            return self._row_of_handle[request.handle]
        row = len(self)
        if row == self._rows.size:
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        self._declared.append(request)
        self._row_of_handle[request.handle] = row
        self._handle_of_id[request.request_id] = request.handle
        self._rows[row] = np.zeros((), dtype=ROW)
        new = self._rows[row]
        new["handle"], new["arrival_s"], new["age"] = request.handle, request.arrival_s, request.age
        new["prompt_tokens"], new["priority"] = request.prompt_tokens, request.priority
        new["declared_output_tokens"] = request.declared_output_tokens
        new["predicted_at_age"] = new["age_at_preemption"] = -1
        return row

    def remove(self, handle: int) -> bool:
        """Forget a request; False where it was not alive."""
        row = self._row_of_handle.pop(handle, None)
        if row is None:
            return False
        self._handle_of_id.pop(self._declared[row].request_id, None)
        last = self._declared.pop()
        if row < len(self._declared):
            self._declared[row] = last
            self._rows[row] = self._rows[len(self._declared)]
            self._row_of_handle[last.handle] = row
        return True
