"""The store's client and key names. Any server that speaks the Redis 7 protocol serves."""

from dataclasses import dataclass

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff


@dataclass(frozen=True)
class EngineKeys:
    """Names in the store that belong to one engine; the hash tag keeps them in one cluster slot."""

    owner: str
    posterior: str
    predictions: str
    outcomes: str


def keys(engine_id: str) -> EngineKeys:
    tag = f"trail:{{{engine_id}}}"
    return EngineKeys(f"{tag}:owner", f"{tag}:posterior", f"{tag}:predictions", f"{tag}:outcomes")


def connect(url: str, timeout_ms: int) -> Redis:
    """A client for `redis://`, `rediss://` or `unix://` URLs; it connects at its first command.

    Commands answer within `timeout_ms` or raise; nothing is retried, for a caller on the hot path
    would rather go on without the store. Values are bytes.
    """
    timeout_s = timeout_ms / 1000
    client: Redis = Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        decode_responses=False,
    )
    return client
