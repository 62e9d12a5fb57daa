"""Policies chosen at run time: they hold for every scheduler replica and survive restarts."""

import asyncio
import json

import grpc
import pytest

from scheduler_service.shared_policies import EVERY, KEY
from tests.conftest import Valkey
from tests.integration.scheduler_engine import running_scheduler
from trail.v1 import scheduler_pb2, scheduler_pb2_grpc

ENGINE = "engine-a"


async def choose(channel: grpc.aio.Channel, engine_id: str = "", **policy: object) -> None:
    stub = scheduler_pb2_grpc.SchedulerAdminServiceStub(channel)
    settings = scheduler_pb2.PolicySettings(**policy)  # type: ignore[arg-type]
    await stub.SetPolicy(scheduler_pb2.SetPolicyRequest(engine_id=engine_id, policy=settings))


async def chosen(channel: grpc.aio.Channel, engine_id: str = "") -> scheduler_pb2.PolicySettings:
    stub = scheduler_pb2_grpc.SchedulerAdminServiceStub(channel)
    return (await stub.GetPolicy(scheduler_pb2.GetPolicyRequest(engine_id=engine_id))).policy


async def becomes(channel: grpc.aio.Channel, policy: str, engine_id: str = "") -> None:
    """Within some seconds: a replica looks once a second."""
    for _ in range(100):
        if (await chosen(channel, engine_id)).policy == policy:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"never {policy}")


async def test_what_one_replica_is_told_holds_for_the_other_and_after_a_restart(valkey: Valkey) -> None:
    async with running_scheduler(valkey) as one, running_scheduler(valkey) as other:
        await choose(one, policy="srpt")
        await choose(one, ENGINE, policy="fcfs")
        assert (await chosen(one, ENGINE)).policy == "fcfs"
        await becomes(other, "srpt")
        await becomes(other, "fcfs", ENGINE)
        # What a request leaves out is as the other replica was told.
        await choose(other, ENGINE, max_preemptions=7)
        assert (await chosen(other, ENGINE)).policy == "fcfs"
        await choose(other, ENGINE, policy="hrrn")
        await choose(one, ENGINE, max_preemptions=5)
        told = await chosen(one, ENGINE)
        assert (told.policy, told.max_preemptions) == ("hrrn", 5)
    async with running_scheduler(valkey, policy="sjf") as restarted:
        assert (await chosen(restarted)).policy == "srpt"
        assert (await chosen(restarted, ENGINE)).policy == "hrrn"
        # For every engine: those that had one of their own included.
        await choose(restarted, policy="gittins")
        assert (await chosen(restarted, ENGINE)).policy == "gittins"
    with valkey.client() as client:
        assert client.hkeys(KEY) == [EVERY.encode()]


@pytest.mark.parametrize(
    "bad",
    ["no json", "[]", '{"policy": "fastest"}', '{"preemption_limit": 7}', '{"preemption_limit": "x"}', '{"speed": 1}'],
)
async def test_a_bad_record_is_ignored_with_a_line_and_the_settings_hold(
    valkey: Valkey, bad: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with valkey.client() as client:
        client.hset(KEY, mapping={EVERY: bad, ENGINE: bad, "good": json.dumps({"policy": "fcfs"})})
    async with running_scheduler(valkey, policy="sjf") as channel:
        assert (await chosen(channel)).policy == "sjf"
        assert (await chosen(channel, ENGINE)).policy == "sjf"
        assert (await chosen(channel, "good")).policy == "fcfs"
        with valkey.client() as client:
            client.delete(KEY)
        await becomes(channel, "sjf", "good")
    captured = capsys.readouterr()
    log = captured.out + captured.err
    assert log.count("policy ignored") == 2
    assert ENGINE in log


async def test_without_the_store_a_policy_is_refused_and_nothing_changes(valkey: Valkey) -> None:
    async with running_scheduler(valkey, policy="sjf") as channel:
        await choose(channel, policy="srpt")
        valkey.stop()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await choose(channel, policy="fcfs")
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "nothing was changed" in (refused.value.details() or "")
        assert (await chosen(channel)).policy == "srpt"
        with pytest.raises(grpc.aio.AioRpcError) as invalid:
            await choose(channel, policy="fastest")
        assert invalid.value.code() is grpc.StatusCode.INVALID_ARGUMENT
