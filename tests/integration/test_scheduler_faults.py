"""Lost stores, silent predictors, rival streams and malformed messages."""

import asyncio
import os
import signal

import grpc
import pytest
from prometheus_client import REGISTRY

from tests.conftest import Valkey
from tests.integration.scheduler_engine import (
    Engine,
    Predictor,
    declared,
    engine,
    health_becomes,
    running_scheduler,
    until,
)
from trail.v1 import engine_pb2, scheduler_pb2

ENGINE = "engine-faults"


async def drive(connected: Engine, first_age: int, steps: int) -> int:
    """So many steps, 20 ms apart, in which request 1 progresses; returns its age."""
    for age in range(first_age, first_age + steps):
        await connected.step({1: age})
        await asyncio.sleep(0.02)
    return first_age + steps - 1


async def test_plans_stop_within_their_time_to_live_after_the_predictors_last_answer_and_come_back(valkey: Valkey):
    predictor = Predictor(valkey, ENGINE)
    async with (
        running_scheduler(valkey, plan_ttl_ms=400) as channel,
        engine(channel, ENGINE, handles=(1, 2)) as connected,
    ):
        await predictor.listened_to()
        predictor.publish(0, {1: 100.0, 2: 50.0})
        age = await drive(connected, 1, 40)
        lives = [plan.ttl_ms for plan in connected.plans]
        assert all(0 < life <= 400 for life in lives)
        # It was counted down: no plan outlives the first plan's time.
        assert min(lives) < max(lives) - 50
        seen = len(connected.plans)
        age = await drive(connected, age + 1, 10)
        assert len(connected.plans) == seen
        predictor.publish(age, {1: 60.0, 2: 50.0})
        plan = await connected.plan(lambda plan: True, "a plan after the predictor came back")
        assert plan.ttl_ms > min(lives)


async def test_a_predictor_that_speaks_without_predicting_does_not_keep_plans_alive(valkey: Valkey):
    predictor = Predictor(valkey, ENGINE)
    async with (
        running_scheduler(valkey, plan_ttl_ms=200) as channel,
        engine(channel, ENGINE, handles=(1,)) as connected,
    ):
        await predictor.listened_to()
        for age in range(1, 30):
            await connected.step({1: age})
            predictor.publish(age, {} if age % 2 else {1: float("nan")})
            await asyncio.sleep(0.02)
        seen = len(connected.plans)
        await drive(connected, 30, 10)
        assert len(connected.plans) == seen


async def test_a_killed_store_stops_plans_and_health_and_both_come_back_by_themselves(valkey: Valkey):
    predictor = Predictor(valkey, ENGINE)
    async with running_scheduler(valkey) as channel, engine(channel, ENGINE, handles=(1, 2)) as connected:
        await predictor.listened_to()
        await health_becomes(channel, True)
        await connected.step({1: 1})
        predictor.publish(1, {1: 100.0, 2: 50.0})
        await connected.plan(lambda plan: list(plan.handles) == [2, 1], "a plan by the predictions")
        valkey.stop()
        await health_becomes(channel, False)
        await health_becomes(channel, False, "store")
        # The server may take a moment to die; from when health says so nothing is planned.
        await asyncio.sleep(0.1)
        seen = len(connected.plans)
        await drive(connected, 2, 10)
        assert len(connected.plans) == seen
        valkey.restart_empty()
        await predictor.listened_to()
        await health_becomes(channel, True)
        predictor.publish(12, {1: 3.0, 2: 50.0})
        await connected.step({1: 12})
        await connected.plan(lambda plan: list(plan.handles) == [1, 2], "a plan by the new predictions")
        assert connected.status is None


async def test_fcfs_goes_on_without_a_store(valkey: Valkey):
    valkey.stop()
    async with (
        running_scheduler(valkey, policy="fcfs") as channel,
        engine(channel, ENGINE, handles=(2, 1)) as connected,
    ):
        await connected.step({2: 1})
        await connected.plan(lambda plan: list(plan.handles) == [1, 2], "a plan by arrival")
        await connected.step({}, finished=[scheduler_pb2.Outcome(handle=1)])
        await connected.plan(lambda plan: list(plan.handles) == [2], "a plan though the outcome was lost")


async def test_a_newer_stream_of_the_engine_ends_the_older_one(valkey: Valkey):
    async with running_scheduler(valkey) as channel, engine(channel, ENGINE, handles=(1,)) as older:
        async with engine(channel, ENGINE, counter=2, handles=(1,)) as newer:
            assert await older.code() is grpc.StatusCode.ABORTED
            await newer.step({1: 1})
            await newer.plan(lambda plan: plan.epoch == newer.epoch, "a plan for the newer stream")
        async with engine(channel, "another", counter=1) as other:
            await other.step({})
            assert other.status is None


async def test_a_delta_of_another_epoch_ends_the_stream(valkey: Valkey):
    async with running_scheduler(valkey) as channel, engine(channel, ENGINE, handles=(1,)) as connected:
        await connected.step({1: 1}, epoch=engine_pb2.Epoch(incarnation=1, counter=1))
        assert await connected.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_the_first_message_must_open_the_stream(valkey: Valkey):
    async with running_scheduler(valkey) as channel:
        connected = Engine(channel, ENGINE)
        await connected.step({})
        assert await connected.code() is grpc.StatusCode.FAILED_PRECONDITION
        await connected.close()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"preempted": [1, 1]}, "delta.preempted"),
        ({"running": scheduler_pb2.RunningRequests(handles=[1], ages=[])}, "delta.running.ages"),
        ({"arrived": [declared(1), declared(1)]}, "delta.arrived.handle"),
    ],
)
async def test_a_malformed_delta_ends_the_stream_and_names_the_field(
    valkey: Valkey, fields: dict[str, object], field: str
):
    async with running_scheduler(valkey) as channel, engine(channel, ENGINE, handles=(1,)) as connected:
        await connected.step({1: 1}, **fields)
        assert await connected.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert field in connected.status.details()


async def test_unknown_handles_and_repeated_steps_do_no_harm(valkey: Valkey):
    async with (
        running_scheduler(valkey, policy="fcfs") as channel,
        engine(channel, ENGINE, handles=(1,)) as connected,
    ):
        await connected.step({1: 5, 77: 5})
        await connected.plan(lambda plan: list(plan.handles) == [1], "a plan")
        await connected.step({1: 9}, step=1, finished=[scheduler_pb2.Outcome(handle=1)])
        step = await connected.step({1: 10})
        await connected.plan(lambda plan: plan.step == step and list(plan.handles) == [1], "a plan")


async def test_too_many_requests_are_refused_with_the_limit(valkey: Valkey):
    async with (
        running_scheduler(valkey, max_requests_per_engine=2) as channel,
        engine(channel, ENGINE, handles=(1, 2)) as connected,
    ):
        await connected.step({1: 1}, arrived=[declared(3)])
        assert await connected.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "limit 2" in connected.status.details()


async def test_too_many_engines_are_refused_but_a_known_one_may_come_again(valkey: Valkey):
    async with running_scheduler(valkey, max_engines=1) as channel, engine(channel, ENGINE) as older:
        async with engine(channel, "another") as other:
            assert await other.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        async with engine(channel, ENGINE, counter=2) as newer:
            assert await older.code() is grpc.StatusCode.ABORTED
            assert newer.status is None


async def test_a_store_that_hangs_is_a_lost_store(valkey: Valkey):
    predictor = Predictor(valkey, ENGINE)
    async with running_scheduler(valkey) as channel, engine(channel, ENGINE, handles=(1,)) as connected:
        await predictor.listened_to()
        await health_becomes(channel, True)
        await connected.step({1: 0})
        await connected.plan(lambda plan: True, "a plan")
        pid = valkey.client().info("server")["process_id"]
        os.kill(pid, signal.SIGSTOP)
        try:
            await health_becomes(channel, False, "store")
            # Not even a standing engine, which leaves nothing unanswered, is planned for.
            await until(lambda: connected.plans_stopped_for(1.0), "the end of plans")
        finally:
            os.kill(pid, signal.SIGCONT)
        await health_becomes(channel, True)
        await connected.plan(lambda plan: True, "a plan after the store came back")


async def test_an_engine_that_left_leaves_nothing_behind(valkey: Valkey):
    predictor = Predictor(valkey, ENGINE)
    async with running_scheduler(valkey) as channel:
        async with engine(channel, ENGINE, handles=(1,)):
            await predictor.listened_to()
        await until(lambda: predictor.publish(0, {}) == 0, "the subscription ended")


async def test_invented_engines_leave_no_series_without_end_and_those_that_are_there_keep_theirs(valkey: Valkey):
    def told() -> set[str]:
        samples = (sample for family in REGISTRY.collect() for sample in family.samples)
        return {sample.labels["engine"] for sample in samples if "invented" in sample.labels.get("engine", "")}

    async with (
        running_scheduler(valkey, max_engines=2) as channel,
        engine(channel, "invented-lives", handles=(1,)) as lives,
    ):
        for number in range(6):
            async with engine(channel, f"invented-{number}", handles=(1,)) as connected:
                await connected.step({1: 1})
            await until(lambda: len(told()) <= 3, "the oldest is forgotten")
        await lives.step({1: 1})
        # Counters of who left lately are there for the next scrape.
        assert told() == {"invented-lives", "invented-4", "invented-5"}
