"""New artefacts are taken up while the service serves."""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Iterator

import structlog

from predictor_service.catalogue import Catalogue


async def watch(catalogue: Catalogue, poll_s: float, on_refreshed: Callable[[], Awaitable[None]]) -> None:
    """Has the catalogue read its folders every `poll_s` seconds (0: never) and on SIGHUP, until cancelled.

    On SIGHUP whatever is bad is said at once: the operator asks when all is in place.
    """
    log = structlog.get_logger("models")
    told = asyncio.Event()
    with _on_sighup(told.set):
        while True:
            asked = await _told_within(told, poll_s or None)
            told.clear()
            try:
                await asyncio.to_thread(catalogue.refresh, settled=asked)
            except OSError as error:
                log.error("model folders cannot be read", error=str(error))
            await on_refreshed()


async def _told_within(told: asyncio.Event, timeout_s: float | None) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            return await told.wait()
    except TimeoutError:
        return False


@contextlib.contextmanager
def _on_sighup(call: Callable[[], None]) -> Iterator[None]:
    """Signals reach the main thread only; elsewhere there is just the clock."""
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGHUP, call)
    except (RuntimeError, ValueError):
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
