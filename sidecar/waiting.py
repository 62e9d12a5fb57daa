"""Waiting that ends by itself."""

import asyncio
import contextlib


async def within(timeout_s: float, event: asyncio.Event) -> None:
    """Until the event is set, or the time is over; `event.is_set()` tells which."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
