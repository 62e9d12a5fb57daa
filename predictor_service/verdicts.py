"""What canaries were found to be, in the store, so that restarts and replicas agree."""

import hashlib
import json
import time
from dataclasses import asdict, dataclass

from redis.asyncio import Redis

from predictor_service.artefact import Artefact

KEY = "trail:canaries"
"""A hash: digests of canary and stable artefact -> verdict as JSON. The first verdict on a pair stands."""


@dataclass(frozen=True)
class Verdict:
    """`worse` says why the canary was sent back; empty: it is ready to be the default."""

    canary: str
    stable: str
    worse: str
    decided_s: float


class Verdicts:
    """Raises RedisError, OSError and TimeoutError."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    async def read(self, canary: Artefact, stable: Artefact) -> Verdict | None:
        found = await self._client.hget(KEY, _pair(canary, stable))
        try:
            return None if found is None else Verdict(**json.loads(found))
        except (TypeError, ValueError):
            # Not written by this release.
            return None

    async def write(self, canary: Artefact, stable: Artefact, worse: str) -> None:
        verdict = Verdict(canary.name, stable.name, worse, round(time.time(), 3))
        await self._client.hsetnx(KEY, _pair(canary, stable), json.dumps(asdict(verdict)))


def _pair(canary: Artefact, stable: Artefact) -> str:
    return f"{_digest(canary)}:{_digest(stable)}"


def _digest(artefact: Artefact) -> str:
    """Of the manifest, which holds the files' hashes: another artefact of that name gets a trial of its own."""
    return hashlib.sha256(artefact.manifest.model_dump_json().encode()).hexdigest()[:32]
