"""Ends background tasks for sure."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

_AGAIN_S = 0.1


async def stop(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel until all are done.

    Once is not enough: a read of redis-py whose own time is up in the same turn of the loop takes the
    cancellation for its timeout, returns nothing, and its caller goes on.
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_AGAIN_S)
