"""Selections and unions of rows, as whole arrays."""

from typing import Any

import numpy as np
import numpy.typing as npt

from engine_adapter.records import Rows

Index = npt.NDArray[np.bool_] | npt.NDArray[np.intp] | list[int] | slice


def size(rows: Rows) -> int:
    """Vectors in ``rows``, prompts and decodes together."""
    return len(rows.handles) + len(rows.prompt_handles)


def select(rows: Rows, decodes: Index, prompts: Index) -> Rows:
    """The chosen decode rows [N] and prompt rows [M]."""
    return Rows(
        step=rows.step,
        dtype=rows.dtype,
        dim=rows.dim,
        handles=rows.handles[decodes],
        ages=rows.ages[decodes],
        vectors=rows.vectors[decodes],
        prompt_handles=rows.prompt_handles[prompts],
        covered=rows.covered[prompts],
        total=rows.total[prompts],
        prompt_last=rows.prompt_last[prompts],
        prompt_sum=rows.prompt_sum[prompts],
    )


def newest(earlier: Rows, later: Rows) -> Rows:
    """Both, with only the newest decode row and the newest prompt row of each request.

    Rows of two layouts cannot be joined: then the later ones stay.
    """
    if (earlier.dtype, earlier.dim) != (later.dtype, later.dim):
        return later
    both = Rows(
        step=later.step,
        dtype=later.dtype,
        dim=later.dim,
        handles=_joined(earlier.handles, later.handles),
        ages=_joined(earlier.ages, later.ages),
        vectors=_joined(earlier.vectors, later.vectors),
        prompt_handles=_joined(earlier.prompt_handles, later.prompt_handles),
        covered=_joined(earlier.covered, later.covered),
        total=_joined(earlier.total, later.total),
        prompt_last=_joined(earlier.prompt_last, later.prompt_last),
        prompt_sum=_joined(earlier.prompt_sum, later.prompt_sum),
    )
    return select(both, _last_of_each(both.handles), _last_of_each(both.prompt_handles))


def split(rows: Rows, limit: int) -> tuple[Rows, Rows | None]:
    """The first ``limit`` rows, prompts first, and the rest; None where there is none."""
    if size(rows) <= limit:
        return rows, None
    prompts = min(len(rows.prompt_handles), limit)
    decodes = limit - prompts
    return (
        select(rows, slice(None, decodes), slice(None, prompts)),
        select(rows, slice(decodes, None), slice(prompts, None)),
    )


def _joined(earlier: npt.NDArray[Any], later: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.concatenate((earlier, later))


def _last_of_each(handles: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
    """Position of the last occurrence of each handle, in order of position."""
    _, from_the_end = np.unique(handles[::-1], return_index=True)
    return np.sort(len(handles) - 1 - from_the_end)
