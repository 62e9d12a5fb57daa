"""The store's client and key names. Any server, Sentinel set-up or cluster that speaks the Redis 7 protocol serves."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.client import PubSub
from redis.asyncio.cluster import ClusterNode, ClusterPubSub
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as StoreGone
from redis.exceptions import RedisError

from sidecar.redis_url import StoreUrl, parse

STORE_ERRORS = (RedisError, OSError, TimeoutError)
"""What a command raises where the store is gone, slow, or says no."""

ARTEFACTS = "trail:artefacts"
"""A hash: name of a predictor artefact -> its layout as JSON, written by predictors and read by schedulers."""


@dataclass(frozen=True)
class EngineKeys:
    """Names in the store that belong to one engine; the hash tag keeps them in one cluster slot."""

    owner: str
    commits: str
    posterior: str
    predictions: str
    outcomes: str
    experiment: str
    """Followed by the experiment's name."""
    shadow: str
    artefact: str


def keys(engine_id: str) -> EngineKeys:
    tag = f"trail:{{{engine_id}}}"
    return EngineKeys(*(f"{tag}:{each.name}" for each in fields(EngineKeys)))


@dataclass(frozen=True)
class Access:
    """Who we are to the store, and by what TLS knows both sides. Empty: not given, or as the URL says."""

    username: str = ""
    password: str = field(default="", repr=False)
    sentinel_password: str = field(default="", repr=False)
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


def connect(url: str, timeout_ms: int, access: Access | None = None) -> Redis:
    """A client for any URL that `sidecar.redis_url` knows; it connects at its first command.

    Commands answer within `timeout_ms` or raise; nothing is retried, for a caller on the hot path
    would rather go on without the store. Values are bytes. Raises ValueError for any other URL.
    """
    store, access = parse(url), access or Access()
    options = _options(store, timeout_ms, access)
    if store.kind == "cluster":
        nodes = [ClusterNode(host, port) for host, port in store.nodes]
        # It knows the commands that we use, and finds the node of each.
        return cast(Redis, _Cluster(startup_nodes=nodes, ssl=store.tls, require_full_coverage=False, **options))
    if store.kind == "sentinel":
        return _by_sentinels(store, options, access)
    client: Redis = Redis.from_url(url, **options)
    return client


async def call(client: Redis, function: str, names: tuple[str, ...], *arguments: Any) -> Any:
    """Calls a function of the store with the keys `names`, all of one slot, in one round trip.

    In a cluster the client would first ask a server which of the arguments are keys.
    """
    where: dict[str, Any] = {}
    if isinstance(client, _Cluster):
        await client.initialize()
        where["target_nodes"] = client.get_node_from_key(names[0])
    command = ("FCALL", function, len(names), *names, *arguments)
    return await client.execute_command(*command, **where)  # type: ignore[no-untyped-call]


async def clock_s(client: Redis, key: str) -> float:
    """The time of the server that holds `key`, seconds since the Unix epoch."""
    where: dict[str, Any] = {}
    if isinstance(client, _Cluster):
        await client.initialize()
        where["target_nodes"] = client.get_node_from_key(key)
    seconds, micros = await client.execute_command("TIME", **where)  # type: ignore[no-untyped-call]
    return int(seconds) + int(micros) / 1e6


async def subscribe(client: Redis, pubsub: PubSub, channel: str) -> None:
    """Subscribes to a sharded channel, in a cluster at the node that has its slot."""
    if isinstance(client, _Cluster):
        # A subscription alone never tells the client that its node is gone: only a command has it look who took over.
        await client.get(channel)
    await pubsub.ssubscribe(channel)


async def next_message(pubsub: PubSub, timeout_s: float) -> dict[str, Any] | None:
    """The next message of a sharded channel, or None after `timeout_s`. Raises RedisError where nobody listens."""
    if not isinstance(pubsub, ClusterPubSub):
        return await pubsub.get_message(timeout=timeout_s) if pubsub.subscribed else None
    if not pubsub.node_pubsub_mapping:
        raise StoreGone("the channel's node is gone")
    return await pubsub.get_sharded_message(timeout=timeout_s)


class _Cluster(RedisCluster):
    """Connects at its first command, as other clients do, and not when it is entered."""

    async def __aenter__(self) -> "_Cluster":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class _OfSentinels(Redis):
    """Closes the Sentinels' connections with its own."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        if isinstance(self.connection_pool, SentinelConnectionPool):
            await self.connection_pool.sentinel_manager.aclose()


def _by_sentinels(store: StoreUrl, options: dict[str, Any], access: Access) -> Redis:
    of_sentinels = options | {"username": None, "password": access.sentinel_password or None, "ssl": store.tls}
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        list(store.nodes), sentinel_kwargs=of_sentinels, db=store.db, ssl=store.tls, **options
    )
    client: Redis = sentinel.master_for(store.master, redis_class=_OfSentinels)
    return client


def _options(store: StoreUrl, timeout_ms: int, access: Access) -> dict[str, Any]:
    timeout_s = timeout_ms / 1000
    options: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
        "decode_responses": False,
        # Else each connection would tell its name by a command that an ACL user needs to be allowed.
        "driver_info": None,
    }
    who = {"username": access.username or store.username, "password": access.password or store.password}
    options |= {name: value for name, value in who.items() if value}
    if store.tls:
        files = {"ssl_ca_certs": access.ca_file, "ssl_certfile": access.cert_file, "ssl_keyfile": access.key_file}
        options |= {name: str(path) for name, path in files.items() if path is not None}
    return options
