"""Posteriors in the store: claimed by an epoch, written by its holder alone, in one round trip a step."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from redis.asyncio import Redis

from sidecar.redis import STORE_ERRORS, call, keys

LIBRARY = resources.files("predictor_service").joinpath("functions.lua").read_text()

# As often the time of a command may preparing take: a cluster's client asks first who is there.
_PREPARE_TIMEOUTS = 8


class StoreUnavailable(Exception):
    """The store did not do what it was told, or not in time; perhaps it did, and the answer was lost."""


class Fenced(Exception):
    """Another epoch owns the engine; `owner` is "" where the store lost its owner (an empty restart) or commits of it
    (a fail-over)."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        super().__init__(
            f"epoch {owner} owns this engine now" if owner else "the store lost what was written: open again"
        )


@dataclass(frozen=True)
class Claim:
    """What was found at a claim: the owner before ("" for none), and records of living requests."""

    previous_owner: str
    records: Mapping[str, bytes]


class Store:
    """Posteriors of all engines in one Redis-protocol server. Raises StoreUnavailable and Fenced."""

    def __init__(self, client: Redis, *, timeout_ms: int, expire_s: int) -> None:
        self._client = client
        self._timeout_s = timeout_ms / 1000
        self._expire_s = expire_s

    async def prepare(self) -> None:
        """Loads the functions, which also shows that the store answers and can be written."""
        loading = self._client.function_load(LIBRARY, replace=True)
        await self._within_timeout(loading, _PREPARE_TIMEOUTS * self._timeout_s)

    async def claim(self, engine_id: str, epoch: str, living: Sequence[str]) -> Claim:
        """Makes `epoch` the owner, deletes the records of requests that are not named, reads the rest.

        Only what the agent asked for may claim: a writer that lost its ownership never does so itself.
        """
        names = keys(engine_id)
        try:
            previous, *rest = await self._call(
                "trail_claim_v3", (names.owner, names.posterior, names.commits), (epoch, self._expire_s, *living)
            )
        except StoreUnavailable as error:
            refusal, _, owner = str(error).partition(" ")
            if refusal == "FENCED":
                raise Fenced(owner) from None
            raise
        pairs = zip(rest[::2], rest[1::2], strict=True)
        return Claim(previous.decode(), {request_id.decode(): value for request_id, value in pairs})

    async def commit(
        self,
        engine_id: str,
        epoch: str,
        records: Mapping[str, bytes],
        gone: Sequence[str] = (),
        message: bytes = b"",
        number: int = 0,
    ) -> None:
        """Writes `records`, deletes `gone` and publishes `message`, all or nothing, if `epoch` is the owner and this is
        its commit of that `number` since the claim; 0: whichever comes next."""
        names = keys(engine_id)
        parts = [part for name, record in records.items() for part in (name.encode(), record)]
        sizes = np.fromiter(map(len, parts), dtype="<u4", count=len(parts)).tobytes()
        arguments = (epoch, self._expire_s, number, message, len(gone), *gone, b"".join(parts), sizes)
        where = (names.owner, names.posterior, names.commits, names.predictions)
        owner = await self._call("trail_commit_v3", where, arguments)
        if owner != 1:
            raise Fenced(owner.decode())

    async def forget(self, engine_id: str, request_ids: Sequence[str]) -> int:
        """Deletes records of an engine that nobody here serves; how many there were."""
        if not request_ids:
            return 0
        deleted: int = await self._within_timeout(self._client.hdel(keys(engine_id).posterior, *request_ids))
        return deleted

    async def _call(self, function: str, names: tuple[str, ...], arguments: Sequence[Any]) -> Any:
        try:
            return await self._fcall(function, names, arguments)
        except StoreUnavailable as error:
            if "Function not found" not in str(error):
                raise
        # The server was restarted empty since the functions were loaded.
        await self.prepare()
        return await self._fcall(function, names, arguments)

    async def _fcall(self, function: str, names: tuple[str, ...], arguments: Sequence[Any]) -> Any:
        return await self._within_timeout(call(self._client, function, names, *arguments))

    async def _within_timeout(self, command: Any, timeout_s: float | None = None) -> Any:
        """The client's own limits are for each read and connect; this one is for the whole command."""
        try:
            async with asyncio.timeout(timeout_s or self._timeout_s):
                return await command
        except STORE_ERRORS as error:
            raise StoreUnavailable(str(error) or type(error).__name__) from error
