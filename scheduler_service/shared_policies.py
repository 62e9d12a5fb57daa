"""Policies that were chosen at run time, in the store: they hold for all replicas and survive restarts."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable, Mapping

import structlog
from redis.asyncio import Redis

from scheduler_service.choice import PolicyBook, PolicyChoice
from sidecar.redis import STORE_ERRORS

KEY = "trail:policies"
"""A hash: engine id -> its choice as JSON."""
EVERY = "*"
"""The field of every engine that has no choice of its own; no engine can have this name."""
LOOK_S = 1.0


class SharedPolicies:
    """Keeps a book equal to the store. While the store is gone, what was read last holds.

    A record that cannot be used is ignored and logged once: the default holds for that engine, or the settings'.
    """

    def __init__(self, redis: Redis, book: PolicyBook, on_change: Callable[[str], None]) -> None:
        """`on_change` is told the engine whose policy is another now, or "" for all."""
        self._redis, self._book, self._on_change = redis, book, on_change
        self._settings = book.get("")
        self._read: Mapping[bytes, bytes] = {}
        self._turn = asyncio.Lock()
        self._log = structlog.get_logger("policies")

    async def refresh(self) -> None:
        """Takes over what the store holds. Raises one of STORE_ERRORS."""
        async with self._turn:
            # The client's types allow text as well; `sidecar.redis.connect` asks for bytes.
            found: Mapping[bytes, bytes] = await self._redis.hgetall(KEY)  # type: ignore[assignment]
            if found != self._read:
                self._take(found)

    async def set(self, engine_id: str, choice: PolicyChoice) -> None:
        """Chooses for one engine, or with an empty id for every engine. Raises one of STORE_ERRORS."""
        record = json.dumps(dataclasses.asdict(choice))
        async with self._turn, self._redis.pipeline(transaction=True) as pipeline:
            if not engine_id:
                pipeline.delete(KEY)
            pipeline.hset(KEY, engine_id or EVERY, record)
            await pipeline.execute()
        self._book.set(engine_id, choice)
        self._on_change(engine_id)

    async def watch(self) -> None:
        """Looks once a second until cancelled."""
        while True:
            try:
                await self.refresh()
            except STORE_ERRORS as error:
                self._log.debug("policies not read", reason=str(error))
            await asyncio.sleep(LOOK_S)

    def _take(self, found: Mapping[bytes, bytes]) -> None:
        self._read = found
        choices = {field.decode(errors="replace"): self._choice(field, value) for field, value in found.items()}
        usable = {engine_id: choice for engine_id, choice in choices.items() if choice is not None}
        default = usable.pop(EVERY, self._settings)
        self._book.replace(default, usable)
        self._log.info("policies", default=default.policy, from_settings=default is self._settings, engines=len(usable))
        self._on_change("")

    def _choice(self, field: bytes, value: bytes) -> PolicyChoice | None:
        try:
            return PolicyChoice(**json.loads(value))
        except (TypeError, ValueError) as error:
            # InvalidField is a ValueError, and so is text that is no JSON.
            fallback = "the settings'" if field == EVERY.encode() else "the default"
            self._log.error("policy ignored", key=KEY, field=field.decode(errors="replace"), reason=str(error),
                            holds=fallback)  # fmt: skip
            return None
