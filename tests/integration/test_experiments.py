"""Experiments through the real scheduler service and a real store."""

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from scheduler_service.choice import PolicyBook, PolicyChoice
from scheduler_service.experiments.live import LiveExperiments
from scheduler_service.experiments.store import ExperimentStore, Look
from sidecar import log
from sidecar.redis import connect, keys
from tests.conftest import Valkey
from tests.integration.scheduler_engine import Engine, engine, running_scheduler, until
from tests.patience import PATIENCE_S
from tests.unit.experiments.designs import design
from trail.v1 import engine_pb2, experiment_pb2, experiment_pb2_grpc, scheduler_pb2

Stub = experiment_pb2_grpc.ExperimentServiceStub
RUNNING, HALTED = experiment_pb2.EXPERIMENT_STATE_RUNNING, experiment_pb2.EXPERIMENT_STATE_HALTED
FCFS = scheduler_pb2.PolicySettings(policy="fcfs")
ORACLE = scheduler_pb2.PolicySettings(policy="srpt", predictor="oracle")


def arms(*more: experiment_pb2.ExperimentArm) -> list[experiment_pb2.ExperimentArm]:
    return [
        experiment_pb2.ExperimentArm(name="control", policy=FCFS),
        experiment_pb2.ExperimentArm(name="treatment", policy=ORACLE),
        *more,
    ]


def asked(name: str, *engines: str, **more: Any) -> experiment_pb2.CreateExperimentRequest:
    given = {"arms": arms(), "block_s": 2.0, "washout_s": 0.2, "groups": 50} | more
    return experiment_pb2.CreateExperimentRequest(
        design=experiment_pb2.ExperimentDesign(name=name, engine_ids=engines, **given)
    )


@contextlib.asynccontextmanager
async def stepping(
    channel: grpc.aio.Channel, *names: str, latency_s: float = 0.05, slow: asyncio.Event | None = None
) -> AsyncIterator[list[Engine]]:
    """Engines that step all the time; in every step a request ends, and another arrives. `slow` makes them slower."""
    async with contextlib.AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(engine(channel, name, handles=(1, 2))) for name in names]

        async def step() -> None:
            handle = 10
            while True:
                for each in engines:
                    ended = engine_pb2.RequestDeclaration(
                        handle=handle, request_id=f"r{handle}", prompt_tokens=4, arrival_time_s=time.time()
                    )
                    await each.step({1: 5, handle: 1}, arrived=[ended])
                    outcome = scheduler_pb2.Outcome(
                        handle=handle,
                        reason=scheduler_pb2.FINISH_REASON_STOP,
                        output_tokens=5,
                        latency_s=latency_s * (10 if slow is not None and slow.is_set() else 1),
                        time_to_first_token_s=0.01,
                    )
                    await each.step({1: 5}, finished=[outcome])
                handle += 1
                await asyncio.sleep(0.02)

        task = asyncio.create_task(step())
        try:
            yield engines
        finally:
            task.cancel()
            await asyncio.wait([task])


async def experiment(stub: Stub, name: str) -> experiment_pb2.Experiment:
    return (await stub.GetExperiment(experiment_pb2.GetExperimentRequest(name=name))).experiment


async def awaited(
    stub: Stub, name: str, wanted: Callable[[Any], object], what: str, timeout_s: float = PATIENCE_S
) -> experiment_pb2.GetExperimentResponse:
    """What GetExperiment answers once it is as wanted."""
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        found = await stub.GetExperiment(experiment_pb2.GetExperimentRequest(name=name))
        if wanted(found):
            return found
        await asyncio.sleep(0.1)
    raise AssertionError(f"never: {what}")


async def started(stub: Stub, request: experiment_pb2.CreateExperimentRequest) -> None:
    """Created as soon as the schedulers have told that they serve the engines, and started."""
    await stub.CreateExperiment(request)
    end_s = time.monotonic() + 10
    while True:
        try:
            await stub.StartExperiment(experiment_pb2.StartExperimentRequest(name=request.design.name))
            return
        except grpc.aio.AioRpcError as error:
            if "no scheduler serves" not in (error.details() or "") or time.monotonic() > end_s:
                raise
            await asyncio.sleep(0.1)


async def connected_engines(stub: Stub, *names: str) -> None:
    """Until the store knows these, and no other; an experiment that names none is about all of them."""
    end_s, request = time.monotonic() + 10, asked("all")
    request.dry_run = True
    while time.monotonic() < end_s:
        with contextlib.suppress(grpc.aio.AioRpcError):
            if list((await stub.CreateExperiment(request)).design.engine_ids) == list(names):
                return
        await asyncio.sleep(0.1)
    raise AssertionError(f"never: {names} are connected")


async def test_two_replicas_switch_their_engines_by_the_same_lot(valkey: Valkey):
    async with (
        running_scheduler(valkey) as one,
        running_scheduler(valkey) as other,
        stepping(one, "a") as (a,),
        stepping(other, "b") as (b,),
    ):
        stubs = [Stub(one), Stub(other)]
        await started(stubs[0], asked("switch", "a", "b"))
        policies = {"control": "fcfs", "treatment": "srpt"}
        seen: set[tuple[str, str]] = set()
        end_s = time.monotonic() + 25
        while len(seen) < 4 and time.monotonic() < end_s:
            before = [await experiment(stub, "switch") for stub in stubs]
            newest = [each.plans[-1].policy if each.plans else "" for each in (a, b)]
            after = await experiment(stubs[0], "switch")
            now = list(after.arms_now)
            # Away from the edges everybody says the same, and the engines do it.
            into_s = (after.now_s - after.start_s) % 2.0
            if all(now) and 0.4 < into_s < 1.9:
                assert [list(each.arms_now) for each in before] == [now, now]
                assert newest == [policies[arm] for arm in now]
                seen |= set(zip("ab", now, strict=True))
            await asyncio.sleep(0.05)
        assert seen == {(name, arm) for name in "ab" for arm in policies}
        # Whichever replica is asked, both have counted.
        found = await awaited(
            stubs[1], "switch", lambda found: {b.engine_id for b in found.blocks if b.requests} == {"a", "b"}, "blocks"
        )
        counted = [block for block in found.blocks if block.requests]
        assert all(block.figures["mean_latency"] == pytest.approx(0.05) for block in counted)


async def test_an_experiment_outlives_every_scheduler(valkey: Valkey):
    async with running_scheduler(valkey) as channel, stepping(channel, "a"):
        await started(Stub(channel), asked("lives-on", "a"))
        await awaited(Stub(channel), "lives-on", lambda found: any(found.experiment.arms_now), "an arm")
    async with running_scheduler(valkey) as channel, stepping(channel, "a") as (connected,):
        found = await awaited(Stub(channel), "lives-on", lambda f: any(b.requests for b in f.blocks), "a counted block")
        assert found.experiment.state == RUNNING
        await until(lambda: connected.plans and connected.plans[-1].policy in ("fcfs", "srpt"), "an arm's plan")
        await Stub(channel).StopExperiment(experiment_pb2.StopExperimentRequest(name="lives-on", reason="enough"))
        stopped = await experiment(Stub(channel), "lives-on")
        assert (stopped.state, stopped.reason) == (experiment_pb2.EXPERIMENT_STATE_STOPPED, "enough")
        assert list(stopped.arms_now) == [""]


async def test_a_guardrail_sends_every_engine_to_control_and_says_why(valkey: Valkey):
    async with running_scheduler(valkey) as channel, stepping(channel, "a", "b", latency_s=0.09) as engines:
        rails = experiment_pb2.ExperimentGuardrails(p99_latency_s=0.08)
        await started(Stub(channel), asked("harm", "a", "b", guardrails=rails, block_s=4.0))
        found = await awaited(Stub(channel), "harm", lambda found: found.experiment.state == HALTED, "the halt")
        assert "arm treatment: p99 latency" in found.experiment.reason
        assert list(found.experiment.arms_now) == ["control", "control"]
        for each in engines:
            after = len(each.plans)
            await until(lambda e=each, n=after: len(e.plans) > n + 20, "plans go on")
            assert {plan.policy for plan in each.plans[-5:]} == {"fcfs"}


async def test_what_cannot_be_is_refused_and_changes_nothing(valkey: Valkey):
    async with running_scheduler(valkey) as channel, stepping(channel, "a", "b"):
        stub = Stub(channel)
        await connected_engines(stub, "a", "b")
        await started(stub, asked("first", "a"))

        async def refused(call: Any, code: grpc.StatusCode, says: str) -> None:
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call
            assert error.value.code() is code, error.value.details()
            assert says in (error.value.details() or "")

        create, start, stop = stub.CreateExperiment, stub.StartExperiment, stub.StopExperiment
        bad, failed = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION
        await refused(create(asked("first", "a")), grpc.StatusCode.ALREADY_EXISTS, "first")
        await refused(create(asked("x", "a", block_s=0.3)), bad, "block_s")
        await refused(create(asked("x", "a", arms=arms()[:1])), bad, "arms")
        bogus = experiment_pb2.ExperimentArm(name="c", policy=scheduler_pb2.PolicySettings(policy="bogus"))
        await refused(create(asked("x", "a", arms=arms(bogus))), bad, "bogus")
        await refused(create(asked("x", "no such thing")), bad, "engines")
        await create(asked("second", "b", "a"))
        await refused(start(experiment_pb2.StartExperimentRequest(name="second")), failed, "'a' takes part in 'first'")
        # Nothing was taken: the other engine is free for the next one.
        await create(asked("third", "b"))
        await start(experiment_pb2.StartExperimentRequest(name="third"))
        await create(asked("nobody", "never-seen"))
        await refused(start(experiment_pb2.StartExperimentRequest(name="nobody")), failed, "never-seen")
        await refused(start(experiment_pb2.StartExperimentRequest(name="first")), failed, "running")
        await refused(start(experiment_pb2.StartExperimentRequest(name="?")), grpc.StatusCode.NOT_FOUND, "first")
        await stop(experiment_pb2.StopExperimentRequest(name="first"))
        await refused(stop(experiment_pb2.StopExperimentRequest(name="first")), failed, "before")
        # Stopped, it holds its engine no more.
        await create(asked("fourth", "a"))
        await start(experiment_pb2.StartExperimentRequest(name="fourth"))
        # A dry run says all and keeps nothing.
        dry = asked("dry", "a", groups=0)
        dry.dry_run = True
        told = await create(dry)
        assert told.design.groups * 1 == told.pairs_needed
        await refused(
            stub.GetExperiment(experiment_pb2.GetExperimentRequest(name="dry")), grpc.StatusCode.NOT_FOUND, "dry"
        )


async def test_the_washout_is_measured_and_a_shorter_one_refused(valkey: Valkey):
    async with running_scheduler(valkey) as channel, stepping(channel, "a", latency_s=0.5):
        stub, request = Stub(channel), asked("measured", "a", washout_s=0.0, block_s=3.0)
        client = valkey.client()
        await until(lambda: client.xlen(keys("a").outcomes) >= 250, "outcomes")
        told = await stub.CreateExperiment(request)
        assert told.design.washout_s == pytest.approx(0.5)
        assert any("99 % of" in note for note in told.notes)
        with pytest.raises(grpc.aio.AioRpcError, match="washout_s"):
            await stub.CreateExperiment(asked("short", "a", washout_s=0.3))


async def test_a_shadow_arm_plans_and_nobody_follows(valkey: Valkey):
    shadow = experiment_pb2.ExperimentArm(name="shadow", policy=ORACLE, shadow=True)
    async with running_scheduler(valkey) as channel, stepping(channel, "a") as (connected,):
        control = [experiment_pb2.ExperimentArm(name="control", policy=FCFS)]
        await started(Stub(channel), asked("dark", "a", arms=[*control, shadow]))
        found = await awaited(
            Stub(channel), "dark", lambda found: found.shadows and found.shadows[0].plans > 1, "plans"
        )
        assert found.shadows[0].arm == "shadow"
        assert -1 <= found.shadows[0].mean_order_agreement <= 1
        assert "srpt" not in {plan.policy for plan in connected.plans}


async def test_without_the_store_an_experiment_goes_on_and_says_so(valkey: Valkey):
    async with running_scheduler(valkey) as channel, stepping(channel, "a") as (connected,):
        await started(Stub(channel), asked("dark", "a"))
        await awaited(Stub(channel), "dark", lambda found: any(found.experiment.arms_now), "an arm")
        valkey.stop()
        with pytest.raises(grpc.aio.AioRpcError, match="experiments that run go on") as error:
            await Stub(channel).ListExperiments(experiment_pb2.ListExperimentsRequest())
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        after = len(connected.plans)
        for policy in ("fcfs", "srpt"):
            wanted = lambda plan, policy=policy: plan.policy == policy  # noqa: E731
            await connected.plan(wanted, f"a plan of {policy} without the store", after=after)


async def test_a_guardrail_needs_no_store(valkey: Valkey):
    slow = asyncio.Event()
    async with running_scheduler(valkey) as channel, stepping(channel, "a", latency_s=0.01, slow=slow) as (connected,):
        rails = experiment_pb2.ExperimentGuardrails(p99_latency_s=0.05)
        await started(Stub(channel), asked("harm", "a", guardrails=rails, block_s=4.0))
        await awaited(Stub(channel), "harm", lambda found: any(found.experiment.arms_now), "an arm")
        valkey.stop()
        slow.set()
        # Two blocks and a bit: treatment has been on for long enough, and will never be again.
        await asyncio.sleep(9)
        after = len(connected.plans)
        await asyncio.sleep(8.5)
        assert {plan.policy for plan in connected.plans[after:]} == {"fcfs"}
        valkey.restart_empty()


async def test_blocks_that_a_jump_of_the_stores_clock_touched_do_not_count(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
):
    redis = connect(valkey.url, 2000)
    store = ExperimentStore(redis)
    live = LiveExperiments(store, PolicyBook(PolicyChoice()), lambda: {"e0": 0.0})
    ahead_s, look = [0.0], store.look

    async def looked() -> Look:
        found = await look()
        return dataclasses.replace(found, store_s=found.store_s + ahead_s[0])

    monkeypatch.setattr(store, "look", looked)
    made = design(block_s=10.0, washout_s=1.0, engines=["e0"])
    await live.look()
    now_s = live.clock.now_s()
    assert await store.create(made, now_s)
    await store.claim("e0", "test")
    assert await store.start("test", now_s - 25)
    await live.look()
    for ahead_s[0], blocks in ((30.0, {2, 3, 4, 5}), (10.0, {3, 4, 5, 2}), (1000.0, set(range(2, 20)))):
        await live.look()
        assert set((await store.tallies("e0", "test"))[1]) == blocks
    await redis.aclose()


async def test_unreadable_records_are_left_alone(valkey: Valkey, capsys: pytest.CaptureFixture[str]):
    client = valkey.client()
    damaged = {b"\xff:design": b"{}", b"engine:\xfe": b"x", b"engine:b": b"\xfd"}
    client.hset(
        "trail:experiments",
        mapping={b"bad:design": b"{", b"worse:design": b'{"design": {}, "created_s": 1}', **damaged},
    )
    client.zadd("trail:engines", {b"\xfc": 1e12})
    log.configure()
    async with running_scheduler(valkey) as channel, stepping(channel, "a"):
        await started(Stub(channel), asked("good", "a"))
        found = await Stub(channel).ListExperiments(experiment_pb2.ListExperimentsRequest())
        assert [each.design.name for each in found.experiments] == ["good"]
    lines = [line for line in capsys.readouterr().err.splitlines() if "unreadable in the store" in line]
    named = [json.loads(line)["experiment"] for line in lines]
    assert len(named) == len(set(named)) >= len(damaged) + 3
    assert {"bad", "worse", *(f"trail:experiments {key!r}" for key in damaged)} <= set(named)
