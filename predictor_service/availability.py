"""Whether the store can be reached, found out away from the hot path."""

import asyncio
from collections.abc import Callable

from predictor_service import metrics
from predictor_service.store import Store, StoreUnavailable
from sidecar.health import Health

_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 0.5
COMPONENT = "store"


class Availability:
    """The store is gone from `lost` (or the start) on, until the background task reaches it again."""

    def __init__(self, store: Store, health: Health, on_return: Callable[[], None]) -> None:
        self._store = store
        self._health = health
        self._on_return = on_return
        self._gone = asyncio.Event()
        self.lost("not reached yet")

    @property
    def available(self) -> bool:
        return not self._gone.is_set()

    def lost(self, reason: str) -> None:
        """Notes that a command failed."""
        self._gone.set()
        self._health.set(COMPONENT, False, reason)
        metrics.STORE_UP.set(0)

    async def attempt(self) -> bool:
        """Tries once to reach a lost store."""
        try:
            await self._store.prepare()
        except StoreUnavailable as error:
            self._health.set(COMPONENT, False, str(error))
            return False
        self._gone.clear()
        self._health.set(COMPONENT, True)
        metrics.STORE_UP.set(1)
        self._on_return()
        return True

    async def watch(self) -> None:
        """Brings a lost store back, retrying with backoff, until cancelled."""
        while True:
            await self._gone.wait()
            wait_s = _FIRST_RETRY_S
            while not await self.attempt():
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, _LAST_RETRY_S)
