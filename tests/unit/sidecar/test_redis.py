import time

import pytest
from redis.exceptions import RedisError

from sidecar.redis import connect, keys
from tests.conftest import Valkey


def test_the_keys_of_an_engine_share_a_cluster_slot() -> None:
    names = keys("a.b-1")
    assert names.owner == "trail:{a.b-1}:owner"
    assert names.posterior == "trail:{a.b-1}:posterior"
    assert names.predictions == "trail:{a.b-1}:predictions"
    assert names.outcomes == "trail:{a.b-1}:outcomes"


async def test_a_unix_socket_url_reaches_the_store(valkey: Valkey) -> None:
    async with connect(valkey.url, 5000) as client:
        assert await client.set("k", b"\xff\x00")
        assert await client.get("k") == b"\xff\x00"


async def test_a_store_that_is_not_there_fails_at_once() -> None:
    async with connect("redis://127.0.0.1:1/0", 200) as client:
        begin = time.monotonic()
        with pytest.raises(RedisError):
            await client.get("k")
        assert time.monotonic() - begin < 3
