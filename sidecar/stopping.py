"""How a process is told to end, and how its tasks do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Coroutine, Iterable, Iterator
from typing import Any

_AGAIN_S = 0.1


async def stop(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel until all are done.

    Once is not enough: a read of redis-py whose own time is up in the same turn of the loop takes the
    cancellation for its timeout, returns nothing, and its caller goes on. Whoever cancels the caller meanwhile waits
    until they are done, too: a task that was left would run on for ever.
    """
    left = {task for task in tasks if not task.done()}
    cancelled: asyncio.CancelledError | None = None
    while left:
        for task in left:
            task.cancel()
        try:
            _, left = await asyncio.wait(left, timeout=_AGAIN_S)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


async def first_of(*parts: Coroutine[Any, Any, object]) -> None:
    """Runs all; the first that ends ends the others, and its exception is raised."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def until_told(stop: asyncio.Event, *, exit_with_parent: bool = False) -> Iterator[None]:
    """Sets ``stop`` on SIGTERM and SIGINT, and at the end of standard input where ``exit_with_parent``.

    Signals reach the main thread only; in another thread the caller ends by cancellation.
    """
    loop = asyncio.get_running_loop()
    handled: list[signal.Signals] = []
    with contextlib.suppress(RuntimeError, ValueError):
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
            handled.append(number)
    stdin = sys.stdin.fileno() if exit_with_parent else -1

    def read() -> None:
        if not os.read(stdin, 4096):
            loop.remove_reader(stdin)
            stop.set()

    if exit_with_parent:
        loop.add_reader(stdin, read)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
        if exit_with_parent:
            loop.remove_reader(stdin)
