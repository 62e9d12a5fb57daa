"""Predictions on their way to a request's row, whichever came first: the request or its prediction."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from scheduler_service.borrowing import Lender
from scheduler_service.messages import Declaration, Predictions, PublishedMessage, Snapshot
from scheduler_service.table import RequestTable
from scheduler_service.view import Ints

_EARLY_MAX = 4096

_Early = tuple[Predictions, int]


class PredictionInbox:
    """Writes predictions into the table; keeps those of requests that are not declared yet.

    The predictor and the engine reach the scheduler on different ways, so a request's first prediction
    often comes before its declaration.
    """

    def __init__(self, requests: RequestTable, lender: Lender) -> None:
        self._requests = requests
        self._lender = lender
        self._early: OrderedDict[int, tuple[_Early, ...]] = OrderedDict()
        self._gone: OrderedDict[int, None] = OrderedDict()
        self._early_stored: dict[str, _Early] = {}

    def published(self, message: PublishedMessage) -> int:
        """Write a message's rows; returns how many were used or kept."""
        predictions, usable = message.predictions, message.predictions.usable()
        handles = message.handles.tolist()
        rows = self._requests.rows_of(handles)
        for index in np.flatnonzero(usable & (rows < 0)).tolist():
            self._keep(handles[index], (predictions, index))
        self._write(rows, predictions, np.flatnonzero(usable & (rows >= 0)))
        return int(usable.sum())

    def stored(self, snapshot: Snapshot) -> int:
        """Write what the store holds; returns how many records were used or kept."""
        predictions, usable = snapshot.predictions, snapshot.predictions.usable()
        rows = self._requests.rows_of_ids(snapshot.request_ids)
        self._early_stored = {
            snapshot.request_ids[index]: (predictions, index) for index in np.flatnonzero(usable & (rows < 0)).tolist()
        }
        self._write(rows, predictions, np.flatnonzero(usable & (rows >= 0)))
        return int(usable.sum())

    def deliver(self, request: Declaration) -> None:
        """Give a request that was just declared what came for it before."""
        self._gone.pop(request.handle, None)
        stored = self._early_stored.pop(request.request_id, None)
        published = self._early.pop(request.handle, ())
        for predictions, index in (stored, *published) if stored else published:
            rows = np.full(predictions.ages.size, self._requests.row(request.handle))
            self._write(rows, predictions, np.array([index]))

    def forget(self, handle: int) -> None:
        """Keep nothing more for a request that is gone: its id may come again for another one."""
        self._early.pop(handle, None)
        self._gone[handle] = None
        if len(self._gone) > _EARLY_MAX:
            self._gone.popitem(last=False)

    def _keep(self, handle: int, early: _Early) -> None:
        if handle in self._gone:
            return
        # The first one may be the only one that tells r0, the last one is the newest.
        self._early[handle] = (*self._early.pop(handle, ())[:1], early)
        if len(self._early) > _EARLY_MAX:
            self._early.popitem(last=False)

    def _write(self, rows: Ints, predictions: Predictions, chosen: Ints) -> None:
        """Write the chosen entries of `predictions` to the table rows of the same index."""
        table, targets = self._requests.rows, rows[chosen]
        self._requests.touch(targets)
        r0, r1 = predictions.r0[chosen], predictions.r1[chosen]
        # r0 may be put anew by someone else; r1 is frozen, for the cut-off c * r must not wander.
        table["r0"][targets] = np.where(r0 > 0, r0, table["r0"][targets])
        table["r1"][targets] = np.where(table["r1"][targets] > 0, table["r1"][targets], r1)
        self._lend(targets)
        # A message that was on its way while the store was read is older than the record.
        had = (table["predicted_at_age"][targets], table["stage"][targets])
        ages, stages = predictions.ages[chosen], predictions.stages[chosen]
        newer = (ages > had[0]) | ((ages == had[0]) & (stages >= had[1]))
        targets, chosen = targets[newer], chosen[newer]
        table["predicted_at_age"][targets] = predictions.ages[chosen]
        table["stage"][targets] = predictions.stages[chosen]
        for name in ("mean", "median", "p10", "p90"):
            table[name][targets] = getattr(predictions, name)[chosen]

    def _lend(self, targets: Ints) -> None:
        table = self._requests.rows
        for row in targets[table["borrowed_r"][targets] == 0].tolist():
            own = table["r1"][row] or table["r0"][row]
            if own > 0:
                table["borrowed_r"][row] = self._lender.exchange(int(table["handle"][row]), float(own))
