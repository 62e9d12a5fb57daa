"""Which rows of a step can be used, and why the others cannot."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from predictor_service.requests import Requests
from predictor_service.step import Ages, RowProblem, Rows, RowStatus


@dataclass(frozen=True)
class Selection:
    """Usable rows: their requests' slots [N], ages [N] and float16 hidden states [N, dim].

    `settled` are requests with a row that has nothing new to say; they are answered as they stand.
    """

    slots: Ages
    ages: Ages
    hidden: npt.NDArray[Any]
    settled: tuple[int, ...]
    problems: tuple[RowProblem, ...]


def prompt_rows(requests: Requests, rows: Rows) -> Selection:
    """The rows of requests of which no hidden state was seen; a prompt row has age 0."""
    chosen: dict[int, int] = {}
    settled: list[int] = []
    problems: list[RowProblem] = []
    for index, handle in enumerate(rows.handles.tolist()):
        slot = requests.slot(handle)
        if slot is None:
            problems.append(_unknown(handle))
        elif slot in chosen or requests.age[slot] > 0 or requests.is_refined(slot):
            settled.append(slot)
        else:
            chosen[slot] = index
    slots = np.fromiter(chosen.keys(), dtype=np.int64)
    return _finite(rows, slots, np.fromiter(chosen.values(), dtype=np.int64), tuple(settled), problems)


def decode_rows(requests: Requests, rows: Rows) -> Selection:
    """The newest row of each request, where it is newer than what is known."""
    slots = requests.slots(rows.handles)
    known = slots >= 0
    # An age that was only declared may come again with its row; an age that was seen may not.
    seen = requests.age[slots] - np.where(requests.refined(slots), 0, 1)
    newest = _newest_of_each(slots, rows.ages)
    chosen = known & (rows.ages > seen) & newest[0]
    problems: list[RowProblem] = []
    if not chosen.all():
        handles, ages = rows.handles.tolist(), rows.ages.tolist()
        for index in np.flatnonzero(~chosen).tolist():
            newest_age = max(int(seen[index]), int(newest[1][index]))
            problems.append(
                _stale(handles[index], ages[index], newest_age) if known[index] else _unknown(handles[index])
            )
    at = np.flatnonzero(chosen)
    return _finite(rows, slots[at], at, (), problems)


def _newest_of_each(slots: Ages, ages: Ages) -> tuple[npt.NDArray[np.bool_], Ages]:
    """[N]: whether this is its slot's row of the highest age (the first of several), and that age."""
    is_newest, highest = np.ones(len(slots), dtype=np.bool_), ages
    ordered = np.sort(slots)
    if (ordered[1:] == ordered[:-1]).any():
        order = np.lexsort((-np.arange(len(slots)), ages, slots))
        ends = np.flatnonzero(np.append(np.diff(slots[order]) != 0, True))
        is_newest[:] = False
        is_newest[order[ends]] = True
        highest = np.empty_like(ages)
        highest[order] = np.repeat(ages[order[ends]], np.diff(ends, prepend=-1))
    return is_newest, highest


def _finite(rows: Rows, slots: Ages, index: Ages, settled: tuple[int, ...], problems: list[RowProblem]) -> Selection:
    """Rows `index` [N], which are of `slots` [N], without those that hold no number."""
    with np.errstate(over="ignore"):
        # Mostly every row is used, in its order; a gather would copy them all.
        chosen_rows = rows.hidden if len(index) == len(rows.hidden) else rows.hidden[index]
        hidden = chosen_rows.astype(np.float16, copy=False)
    usable = _is_finite(hidden)
    problems += [not_finite(handle) for handle in rows.handles[index[~usable]].tolist()]
    if not usable.all():
        slots, index, hidden = slots[usable], index[usable], hidden[usable]
    return Selection(slots, rows.ages[index], hidden, settled, tuple(problems))


def _is_finite(hidden: npt.NDArray[np.float16]) -> npt.NDArray[np.bool_]:
    """Rows [N] without NaN or infinity, told by the exponent's bits: np.isfinite is slow for float16."""
    exponents = np.ascontiguousarray(hidden).view(np.uint16) & 0x7C00
    finite: npt.NDArray[np.bool_] = exponents.max(axis=1, initial=0) < 0x7C00
    return finite


def not_finite(handle: int) -> RowProblem:
    return RowProblem(handle, RowStatus.NOT_FINITE, "the row has a NaN or an infinity as float16")


def _unknown(handle: int) -> RowProblem:
    return RowProblem(handle, RowStatus.UNKNOWN_HANDLE, "no living request was declared with this handle")


def _stale(handle: int, age: int, newest: int) -> RowProblem:
    return RowProblem(handle, RowStatus.STALE, f"age {age} is not above {newest}, the newest seen")
