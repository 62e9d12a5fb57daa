"""Tells the health service whether the store answers."""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis
from redis.exceptions import RedisError

from sidecar.health import Health

COMPONENT = "store"
_INTERVAL_S = 0.5


async def watch_store(redis: Redis, health: Health) -> None:
    """Ask the store until cancelled; it answers within its client's timeout or counts as gone."""
    while True:
        try:
            await redis.ping()
        except (RedisError, OSError, TimeoutError) as error:
            health.set(COMPONENT, False, f"{type(error).__name__}: {error}")
        else:
            health.set(COMPONENT, True)
        await asyncio.sleep(_INTERVAL_S)
