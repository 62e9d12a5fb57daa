"""Tasks that are told to end."""

import asyncio

import pytest

from sidecar.stopping import stop


async def deaf(times: int) -> None:
    """Takes so many cancellations for something else."""
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            times -= 1
            if times < 0:
                raise


async def test_a_task_that_takes_a_cancellation_for_something_else_is_told_again() -> None:
    task = asyncio.create_task(deaf(2))
    await asyncio.sleep(0)
    await stop([task])
    assert task.cancelled()


async def test_who_is_cancelled_while_stopping_stops_first() -> None:
    task = asyncio.create_task(deaf(1))
    stopping = asyncio.create_task(stop([task]))
    await asyncio.sleep(0.02)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert task.cancelled()
