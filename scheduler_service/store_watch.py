"""Tells the health service whether the store answers."""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis

from scheduler_service import metrics
from sidecar.health import Health
from sidecar.redis import STORE_ERRORS

COMPONENT = "store"
_INTERVAL_S = 0.5


async def watch_store(redis: Redis, health: Health) -> None:
    """Ask the store until cancelled; it answers within its client's timeout or counts as gone."""
    while True:
        try:
            await redis.ping()
        except STORE_ERRORS as error:
            health.set(COMPONENT, False, f"{type(error).__name__}: {error}")
            metrics.STORE_UP.set(0)
        else:
            health.set(COMPONENT, True)
            metrics.STORE_UP.set(1)
        await asyncio.sleep(_INTERVAL_S)
