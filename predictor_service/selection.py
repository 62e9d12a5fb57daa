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
    return _finite(rows, chosen, settled, problems)


def decode_rows(requests: Requests, rows: Rows) -> Selection:
    """The newest row of each request, where it is newer than what is known."""
    chosen: dict[int, int] = {}
    problems: list[RowProblem] = []
    for index, (handle, age) in enumerate(zip(rows.handles.tolist(), rows.ages.tolist(), strict=True)):
        slot = requests.slot(handle)
        if slot is None:
            problems.append(_unknown(handle))
            continue
        # An age that was only declared may come again with its row; an age that was seen may not.
        seen = int(requests.age[slot]) - (0 if requests.is_refined(slot) else 1)
        newest = int(rows.ages[chosen[slot]]) if slot in chosen else seen
        if age > newest:
            chosen[slot], superseded = index, chosen.get(slot)
            if superseded is not None:
                problems.append(_stale(handle, newest, age))
        else:
            problems.append(_stale(handle, age, newest))
    return _finite(rows, chosen, [], problems)


def _finite(rows: Rows, chosen: dict[int, int], settled: list[int], problems: list[RowProblem]) -> Selection:
    slots = np.fromiter(chosen.keys(), dtype=np.int64)
    index = np.fromiter(chosen.values(), dtype=np.int64)
    with np.errstate(over="ignore"):
        # Mostly every row is used, in its order; a gather would copy them all.
        chosen_rows = rows.hidden if len(index) == len(rows.hidden) else rows.hidden[index]
        hidden = chosen_rows.astype(np.float16, copy=False)
    usable = _is_finite(hidden)
    problems += [not_finite(handle) for handle in rows.handles[index[~usable]].tolist()]
    if not usable.all():
        slots, index, hidden = slots[usable], index[usable], hidden[usable]
    return Selection(slots, rows.ages[index], hidden, tuple(settled), tuple(problems))


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
