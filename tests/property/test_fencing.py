"""Whatever claims, commits, empty restarts and expiries come in whatever order, only the owner writes."""

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import redis_servers
from predictor_service.store import Fenced, Store
from sidecar.redis import connect, keys
from tests.conftest import Valkey
from tests.integration import real_redis

ENGINE = "e"
NAMES = keys(ENGINE)
EPOCHS = ("1:1", "1:2", "1:10", "2:1", "2:2")
IDS = ("a", "b", "c")

epochs = st.sampled_from(EPOCHS)
subsets = st.sets(st.sampled_from(IDS))
operations = st.one_of(
    st.tuples(st.just("claim"), epochs, subsets, st.just(frozenset())),
    st.tuples(st.just("commit"), epochs, subsets, subsets),
    st.tuples(st.just("restart_empty"), epochs, st.just(frozenset()), st.just(frozenset())),
    st.tuples(st.just("lose_owner"), epochs, st.just(frozenset()), st.just(frozenset())),
)


@dataclass
class Model:
    """What the store must hold."""

    owner: str = ""
    records: dict[str, bytes] = field(default_factory=dict)

    def claim(self, epoch: str, living: set[str]) -> bool:
        (mine, my_counter), (theirs, their_counter) = (
            (text.split(":") if text else ("", "0")) for text in (epoch, self.owner)
        )
        if mine == theirs and int(their_counter) > int(my_counter):
            return False
        self.owner = epoch
        self.records = {key: value for key, value in self.records.items() if key in living}
        return True

    def commit(self, epoch: str, records: dict[str, bytes], gone: set[str]) -> bool:
        if epoch != self.owner:
            return False
        self.records = {key: value for key, value in self.records.items() if key not in gone} | records
        return True


async def play(url: str, history: list[tuple[str, str, set[str], set[str]]]) -> None:
    model = Model()
    async with connect(url, 5000) as client:
        await client.flushall()
        await client.function_flush()
        store = Store(client, timeout_ms=5000, expire_s=60)
        for number, (operation, epoch, ids, gone) in enumerate(history):
            value = f"{epoch} {number}".encode()
            if operation == "claim":
                await claim(store, model, epoch, ids)
            elif operation == "commit":
                records = dict.fromkeys(sorted(ids), value)
                wrote = await succeeds(store.commit(ENGINE, epoch, records, sorted(gone), b"m"))
                assert wrote == model.commit(epoch, records, gone)
            elif operation == "restart_empty":
                await client.flushall()
                await client.function_flush()
                model = Model()
            else:
                await client.delete(NAMES.owner)
                model.owner = ""
            held = await client.hgetall(NAMES.posterior)
            assert {key.decode(): value for key, value in held.items()} == model.records
            assert (await client.get(NAMES.owner) or b"").decode() == model.owner


async def claim(store: Store, model: Model, epoch: str, ids: set[str]) -> None:
    previous = model.owner
    try:
        found = await store.claim(ENGINE, epoch, sorted(ids))
    except Fenced:
        assert not model.claim(epoch, ids)
        return
    assert model.claim(epoch, ids)
    assert found.previous_owner == previous
    assert found.records == model.records


async def succeeds(commit: "asyncio.Future[None]") -> bool:
    try:
        await commit
    except Fenced:
        return False
    return True


@given(history=st.lists(operations, max_size=25))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_only_the_owner_writes(valkey: Valkey, history: list[tuple[str, str, set[str], set[str]]]) -> None:
    asyncio.run(play(valkey.url, history))


def test_only_the_owner_writes_in_a_cluster(tmp_path_factory: pytest.TempPathFactory) -> None:
    real_redis.require()
    with redis_servers.cluster(tmp_path_factory.mktemp("cluster") / "redis") as servers:

        @given(history=st.lists(operations, max_size=25))
        @settings(max_examples=20, deadline=None)
        def holds(history: list[tuple[str, str, set[str], set[str]]]) -> None:
            asyncio.run(play(servers.url, history))

        holds()


async def test_thousands_of_records_pass_through_the_functions(valkey: Valkey) -> None:
    """More than Lua can unpack at once."""
    async with connect(valkey.url, 30000) as client:
        store = Store(client, timeout_ms=30000, expire_s=60)
        records = {f"r{number}": b"x" * 50 for number in range(9000)}
        await store.claim(ENGINE, "1:1", list(records))
        await store.commit(ENGINE, "1:1", records)
        found = await store.claim(ENGINE, "1:2", list(records))
        assert found.records == records
        await store.commit(ENGINE, "1:2", {}, list(records))
        assert await client.hlen(NAMES.posterior) == 0
        await store.commit(ENGINE, "1:2", records)
        await store.claim(ENGINE, "1:3", ["r0"])
        assert await client.hkeys(NAMES.posterior) == [b"r0"]
