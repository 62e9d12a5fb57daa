"""Reads how requests ended from the streams that the scheduler service writes."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from sidecar.redis import keys

BATCH = 500
# Far more than the clocks of two hosts differ; what was seen before is known by its request.
_FIRST_LOOK_BACK_MS = 60_000
_BY_ITSELF = (b"stop", b"length")


@dataclass(frozen=True)
class Outcome:
    """`output_tokens` is None where the request was cut short from outside, which says nothing of its length."""

    handle: int
    request_id: str
    output_tokens: int | None


class OutcomeReader:
    """Reads each engine's outcomes once, in order. An engine without a stream has none."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._read_to: dict[str, str] = {}

    async def read(self, engine_id: str) -> list[Outcome]:
        """What is new since the last call. Raises RedisError, OSError or TimeoutError."""
        found: list[Outcome] = []
        at = self._start(engine_id)
        while True:
            # The client's types allow text as well; `sidecar.redis.connect` asks for bytes.
            entries: Any = await self._client.xrange(keys(engine_id).outcomes, min=f"({at}", count=BATCH)
            for entry_id, fields in entries:
                at = entry_id.decode()
                outcome = _outcome(fields)
                if outcome is not None:
                    found.append(outcome)
            if len(entries) < BATCH:
                # Only now: an error on the way leaves all of them for the next call.
                self._read_to[engine_id] = at
                return found

    def keep_only(self, engines: list[str]) -> None:
        """Forgets where it was with the others."""
        self._read_to = {engine_id: at for engine_id, at in self._read_to.items() if engine_id in engines}

    def _start(self, engine_id: str) -> str:
        before = f"{int(time.time() * 1000) - _FIRST_LOOK_BACK_MS}-0"
        return self._read_to.setdefault(engine_id, before)


def _outcome(fields: Mapping[bytes, bytes]) -> Outcome | None:
    """None for an entry that is not one of ours."""
    try:
        length = int(fields[b"output_tokens"]) if fields[b"reason"] in _BY_ITSELF else None
        return Outcome(int(fields[b"handle"]), fields[b"request_id"].decode(), length)
    except (KeyError, ValueError):
        return None
