"""Selections and unions of rows, as whole arrays."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from engine_adapter.records import Rows

Index = npt.NDArray[np.bool_] | npt.NDArray[np.intp] | list[int] | slice


def select(rows: Rows, chosen: Index) -> Rows:
    """The chosen rows [N]."""
    return replace(rows, handles=rows.handles[chosen], ages=rows.ages[chosen], vectors=rows.vectors[chosen])


def newest(earlier: Rows, later: Rows) -> Rows:
    """Both, with only the newest row of each request.

    Rows of two layouts cannot be joined: then the later ones stay.
    """
    if (earlier.dtype, earlier.dim) != (later.dtype, later.dim):
        return later
    both = replace(
        later,
        handles=np.concatenate((earlier.handles, later.handles)),
        ages=np.concatenate((earlier.ages, later.ages)),
        vectors=np.concatenate((earlier.vectors, later.vectors)),
    )
    return select(both, _last_of_each(both.handles))


def split(rows: Rows, limit: int) -> tuple[Rows, Rows | None]:
    """The first ``limit`` rows and the rest; None where there is none."""
    if len(rows.handles) <= limit:
        return rows, None
    return select(rows, slice(None, limit)), select(rows, slice(limit, None))


def _last_of_each(handles: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
    """Position of the last occurrence of each handle, in order of position."""
    _, from_the_end = np.unique(handles[::-1], return_index=True)
    return np.sort(len(handles) - 1 - from_the_end)
