"""The living requests of one engine as dense rows, one array a column."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from scheduler_service.messages import Declaration
from scheduler_service.tenants import tenant_of
from scheduler_service.view import ROW, Ints

Columns = dict[str, npt.NDArray[Any]]
_FIRST_ROWS = 64


class RequestTable:
    """Rows 0 to len - 1 are alive; a removed row is filled by the last one, so row numbers do not last.

    Whoever writes to rows says so with `touch`: a planner that keeps ranks makes those of touched rows anew.
    """

    def __init__(self) -> None:
        self._columns: Columns = {name: np.zeros(_FIRST_ROWS, ROW[name]) for name in ROW.names or ()}
        self._touched = np.ones(_FIRST_ROWS, np.bool_)
        self._key = np.zeros(_FIRST_ROWS)
        self._tier = np.zeros(_FIRST_ROWS, np.int64)
        self._living: Columns | None = None
        self._declared: list[Declaration] = []
        self._row_of_handle: dict[int, int] = {}
        self._handle_of_id: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._declared)

    def __contains__(self, handle: int) -> bool:
        return handle in self._row_of_handle

    @property
    def rows(self) -> Columns:
        """The living rows, [N] of each column of `ROW`; writing changes the table."""
        if self._living is None:
            self._living = {name: column[: len(self)] for name, column in self._columns.items()}
        return self._living

    @property
    def touched(self) -> npt.NDArray[np.bool_]:
        """[N]: written to since the planner cleared it."""
        return self._touched[: len(self)]

    @property
    def key(self) -> npt.NDArray[np.float64]:
        """[N] what a planner orders by, kept beside the row it belongs to."""
        return self._key[: len(self)]

    @property
    def tier(self) -> Ints:
        """[N] what a planner orders by first, likewise."""
        return self._tier[: len(self)]

    def touch(self, rows: Ints) -> None:
        """Say that these rows were written to."""
        self._touched[rows] = True

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
        if row == self._touched.size:
            self._grow()
        self._living = None
        self._declared.append(request)
        self._row_of_handle[request.handle] = row
        self._handle_of_id[request.request_id] = request.handle
        told = {
            "handle": request.handle,
            "arrival_s": request.arrival_s,
            "age": request.age,
            "prompt_tokens": request.prompt_tokens,
            "priority": request.priority,
            "deadline_s": request.deadline_s,
            "tenant": tenant_of(request.tenant),
            "declared_output_tokens": request.declared_output_tokens,
            "predicted_at_age": -1,
            "age_at_preemption": -1,
        }
        for name, column in self._columns.items():
            column[row] = told.get(name, 0)
        self._touched[row] = True
        return row

    def remove(self, handle: int) -> bool:
        """Forget a request; False where it was not alive."""
        row = self._row_of_handle.pop(handle, None)
        if row is None:
            return False
        self._living = None
        self._handle_of_id.pop(self._declared[row].request_id, None)
        last = self._declared.pop()
        end = len(self._declared)
        if row < end:
            self._declared[row] = last
            self._row_of_handle[last.handle] = row
            for column in (*self._columns.values(), self._touched, self._key, self._tier):
                column[row] = column[end]
        return True

    def _grow(self) -> None:
        self._columns = {name: np.concatenate([each, np.zeros_like(each)]) for name, each in self._columns.items()}
        self._touched = np.concatenate([self._touched, np.ones_like(self._touched)])
        self._key = np.concatenate([self._key, np.zeros_like(self._key)])
        self._tier = np.concatenate([self._tier, np.zeros_like(self._tier)])
