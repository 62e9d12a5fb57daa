"""Follows one engine's predictions: subscribes first, then reads what is stored, and reads again on a gap.

Pub/sub may lose messages without a word. Messages of an epoch are numbered, so a gap in the numbers, another
epoch or another owner says that the store knows more than was heard.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Protocol

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from scheduler_service import metrics, wire_store
from scheduler_service.messages import PublishedMessage, Snapshot
from scheduler_service.numbering import Numbering
from sidecar.redis import keys, next_message, subscribe

_OWNER_CHECK_S = 1.0
_BACKOFF_MIN_S, _BACKOFF_MAX_S = 0.05, 1.0


class PredictionSink(Protocol):
    """Who is told what the subscriber hears."""

    def on_predictions(self, message: PublishedMessage) -> None:
        """A new message of this engine's incarnation."""

    def on_snapshot(self, snapshot: Snapshot) -> None:
        """All that the store holds."""

    def on_store(self, connected: bool, reason: str) -> None:
        """The subscription was lost, or holds again."""


class PredictionSubscriber:
    """Runs until cancelled; subscribes again with backoff whenever the store was gone."""

    def __init__(self, redis: Redis, engine_id: str, incarnation: int, sink: PredictionSink) -> None:
        self._redis = redis
        self._engine_id = engine_id
        self._incarnation = incarnation
        self._keys = keys(engine_id)
        self._sink = sink
        self._log = structlog.get_logger("subscriber")
        self._numbering = Numbering()
        self._owner: bytes | str | None = None

    async def run(self) -> None:
        """Follow the engine for ever."""
        backoff_s = _BACKOFF_MIN_S
        while True:
            started_s = time.monotonic()
            try:
                await self._follow()
            except Exception as error:
                # A lost server, nearly always; whatever else it was, following anew is the way back.
                reason = f"{type(error).__name__}: {error}"
                self._log.warning("predictions lost", reason=reason, again_in_s=round(backoff_s, 2))
                self._sink.on_store(connected=False, reason=reason)
            if time.monotonic() - started_s > _BACKOFF_MAX_S:
                backoff_s = _BACKOFF_MIN_S
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, _BACKOFF_MAX_S)

    async def _follow(self) -> None:
        async with self._redis.pubsub() as pubsub:
            await subscribe(self._redis, pubsub, self._keys.predictions)
            check_at_s = 0.0
            while True:
                timeout_s = max(check_at_s - time.monotonic(), 0.0)
                message = await next_message(pubsub, timeout_s)
                if message is not None:
                    await self._receive(pubsub, message["type"], message["data"])
                if time.monotonic() >= check_at_s:
                    await self._check_owner()
                    check_at_s = time.monotonic() + _OWNER_CHECK_S

    async def _receive(self, pubsub: PubSub, kind: str, data: bytes) -> None:
        if kind == "ssubscribe":
            # Also after the client connected again by itself: whatever was said meanwhile was not heard.
            self._numbering.forget()
            await self._read_stored("subscribed")
            self._sink.on_store(connected=True, reason="")
        elif kind == "smessage":
            await self._hear(data)

    async def _hear(self, data: bytes) -> None:
        try:
            message = wire_store.published(data)
        except wire_store.Unreadable as error:
            self._log.warning("unreadable predictions", reason=str(error))
            return self._count("unreadable")
        if message.epoch.incarnation != self._incarnation:
            return self._count("foreign")
        heard = self._numbering.hear(message.epoch.counter, message.number)
        if heard == "repeated":
            return self._count(heard)
        self._count("used")
        self._sink.on_predictions(message)
        if heard != "next":
            await self._read_stored(heard)
        return None

    async def _check_owner(self) -> None:
        """Once a second: a lost server is noticed though nobody speaks, and so is another owner."""
        owner, before = await self._redis.get(self._keys.owner), self._owner
        self._owner = owner
        if before is not None and owner is not None and owner != before:
            await self._read_stored("owner")

    async def _read_stored(self, cause: str) -> None:
        snapshot = wire_store.snapshot(_as_bytes(await self._redis.hgetall(self._keys.posterior)))
        metrics.STORE_READS.labels(self._engine_id, cause).inc()
        if snapshot.unreadable:
            self._log.warning("unreadable records", records=snapshot.unreadable)
        self._sink.on_snapshot(snapshot)

    def _count(self, status: str) -> None:
        metrics.MESSAGES.labels(self._engine_id, status).inc()


def _as_bytes(fields: dict[Any, Any]) -> Mapping[bytes, bytes]:
    # The client's types allow text as well; `sidecar.redis.connect` asks for bytes.
    return fields
