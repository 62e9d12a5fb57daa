"""Plans over a real stream, from predictions in a real Valkey."""

from collections.abc import AsyncIterator

import grpc
import pytest

from tests.conftest import Valkey
from tests.integration.scheduler_engine import Engine, Predictor, declared, engine, running_scheduler, until
from trail.v1 import scheduler_pb2, scheduler_pb2_grpc

ENGINE = "engine-plans"


@pytest.fixture
async def channel(valkey: Valkey) -> AsyncIterator[grpc.aio.Channel]:
    async with running_scheduler(valkey) as channel:
        yield channel


@pytest.fixture
def predictor(valkey: Valkey) -> Predictor:
    return Predictor(valkey, ENGINE)


async def planned(connected: Engine, order: list[int], after: int | None = None) -> scheduler_pb2.EnginePlan:
    return await connected.plan(lambda plan: list(plan.handles) == order, f"a plan ordered {order}", after=after)


async def test_published_predictions_change_the_plan(channel: grpc.aio.Channel, predictor: Predictor):
    async with engine(channel, ENGINE, slots=8, handles=(1, 2, 3)) as connected:
        assert connected.opened.epoch == connected.epoch
        await predictor.listened_to()
        step = await connected.step({1: 3, 2: 3})
        assert predictor.publish(3, {1: 200.0, 2: 50.0, 3: 10.0}) == 1
        plan = await planned(connected, [3, 2, 1])
        assert (plan.epoch, plan.step, plan.policy) == (connected.epoch, step, "trail")
        assert 0 < plan.ttl_ms <= 1000
        assert list(plan.predicted_at_ages) == [3, 3, 3]
        predictor.publish(4, {1: 5.0, 2: 90.0, 3: 60.0})
        later = await planned(connected, [1, 3, 2])
        assert later.number > plan.number


async def test_a_short_newcomer_takes_the_place_of_a_long_runner(channel: grpc.aio.Channel, predictor: Predictor):
    async with engine(channel, ENGINE, slots=2, handles=(1, 2, 3)) as connected:
        await predictor.listened_to()
        predictor.publish(3, {1: 497.0, 2: 100.0, 3: 5.0})
        await connected.step({1: 3, 2: 3})
        plan = await connected.plan(lambda plan: bool(plan.preemptions), "a preemption")
        assert [(p.victim, p.only_if_age_below, p.beneficiary) for p in plan.preemptions] == [(1, 400, 3)]
        await connected.step({2: 4, 3: 1}, preempted=[1])
        predictor.publish(4, {2: 99.0, 3: 4.0})
        await connected.plan(lambda plan: not plan.preemptions, "a plan after the preemption")


async def test_what_is_stored_already_is_read_when_the_stream_opens(channel: grpc.aio.Channel, predictor: Predictor):
    predictor.store(1, age=7, mean=300.0)
    predictor.store(2, age=7, mean=30.0)
    async with engine(channel, ENGINE, handles=(1, 2)) as connected:
        await connected.step({1: 7, 2: 7})
        await planned(connected, [2, 1])


async def test_a_lost_message_is_made_up_for_from_the_store(channel: grpc.aio.Channel, predictor: Predictor):
    async with engine(channel, ENGINE, slots=8, handles=(1, 2)) as connected:
        await predictor.listened_to()
        await connected.step({1: 3, 2: 3})
        predictor.publish(3, {1: 10.0, 2: 20.0})
        await planned(connected, [1, 2])
        predictor.store(1, age=4, mean=900.0)
        predictor.number += 1
        predictor.publish(4, {2: 19.0})
        await planned(connected, [2, 1])


async def test_one_damaged_number_does_not_silence_the_predictor(channel: grpc.aio.Channel, predictor: Predictor):
    async with engine(channel, ENGINE, slots=8, handles=(1, 2)) as connected:
        await predictor.listened_to()
        await connected.step({1: 3, 2: 3})
        predictor.number = 2**60
        predictor.publish(3, {1: 10.0, 2: 20.0})
        await planned(connected, [1, 2])
        predictor.number = 0
        for age in range(4, 8):
            predictor.publish(age, {1: 30.0, 2: 20.0})
        await planned(connected, [2, 1])


async def test_predictions_of_another_incarnation_are_ignored(
    channel: grpc.aio.Channel, predictor: Predictor, valkey: Valkey
):
    async with engine(channel, ENGINE, slots=8, handles=(1, 2)) as connected:
        await predictor.listened_to()
        await connected.step({1: 3, 2: 3})
        predictor.publish(3, {1: 10.0, 2: 20.0})
        await planned(connected, [1, 2])
        Predictor(valkey, ENGINE, incarnation=99).publish(9, {1: 900.0, 2: 1.0})
        predictor.publish(4, {1: 9.0, 2: 19.0})
        plan = await connected.plan(lambda plan: 4 in plan.predicted_at_ages, "the newer predictions")
        assert list(plan.handles) == [1, 2]


async def test_a_prediction_that_outruns_its_request_is_kept(channel: grpc.aio.Channel, predictor: Predictor):
    async with engine(channel, ENGINE, slots=8, handles=(1,)) as connected:
        await predictor.listened_to()
        predictor.publish(0, {1: 100.0, 2: 7.0})
        await connected.step({1: 1}, arrived=[declared(2)])
        plan = await planned(connected, [2, 1])
        assert plan.predicted_at_ages[0] == 0


async def test_an_unpredicted_request_is_planned_for_and_told_as_such(channel: grpc.aio.Channel):
    async with engine(channel, ENGINE, handles=(1,)) as connected:
        await connected.step({1: 0})
        plan = await planned(connected, [1])
        assert plan.predicted_at_ages[0] == 2**32 - 1


async def test_a_policy_set_while_running_makes_the_next_plan(channel: grpc.aio.Channel, predictor: Predictor):
    admin = scheduler_pb2_grpc.SchedulerAdminServiceStub(channel)
    async with engine(channel, ENGINE, slots=2, handles=(1, 2, 3)) as connected:
        await predictor.listened_to()
        predictor.publish(3, {1: 500.0, 2: 100.0, 3: 5.0})
        await connected.step({1: 3, 2: 3})
        await planned(connected, [3, 2, 1])
        seen = len(connected.plans)
        choice = scheduler_pb2.PolicySettings(policy="fcfs")
        answer = await admin.SetPolicy(scheduler_pb2.SetPolicyRequest(engine_id=ENGINE, policy=choice))
        assert (answer.policy.policy, answer.policy.predictor) == ("fcfs", "per_step")
        plan = await planned(connected, [1, 2, 3], after=seen)
        assert (plan.policy, len(plan.preemptions)) == ("fcfs", 0)
        assert (await admin.GetPolicy(scheduler_pb2.GetPolicyRequest(engine_id="other"))).policy.policy == "trail"
        seen = len(connected.plans)
        never = scheduler_pb2.PolicySettings(policy="trail", preemption_limit=0.0)
        await admin.SetPolicy(scheduler_pb2.SetPolicyRequest(policy=never))
        plan = await connected.plan(lambda plan: plan.policy == "trail", "a plan by trail", after=seen)
        assert not plan.preemptions
        # With c = 0 whoever has begun is past its cut-off.
        assert list(plan.handles) == [2, 1, 3]


async def test_a_wrong_policy_is_refused_and_the_old_one_stays(channel: grpc.aio.Channel):
    admin = scheduler_pb2_grpc.SchedulerAdminServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError, match="fcfs, priority, sjf, srpt, trail") as error:
        await admin.SetPolicy(scheduler_pb2.SetPolicyRequest(policy=scheduler_pb2.PolicySettings(policy="fastest")))
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (await admin.GetPolicy(scheduler_pb2.GetPolicyRequest())).policy.policy == "trail"
    listed = await admin.ListPolicies(scheduler_pb2.ListPoliciesRequest())
    assert list(listed.predictors) == ["per_step", "prompt_only", "shuffled", "oracle"]


async def test_the_oracle_reads_declared_lengths_and_needs_no_predictions(valkey: Valkey):
    async with (
        running_scheduler(valkey, predictor="oracle", plan_ttl_ms=200) as channel,
        engine(channel, ENGINE, slots=8) as connected,
    ):
        lengths = {1: 300, 2: 30, 3: 100}
        arrived = [declared(handle, declared_output_tokens=length) for handle, length in lengths.items()]
        await connected.step({}, arrived=arrived)
        for age in range(1, 30):
            await connected.step({1: age})
        await planned(connected, [2, 3, 1])
        seen = connected.plans[-1].number
        # Twice its time-to-live after the last delta plans are still renewed.
        await until(lambda: connected.plans[-1].number >= seen + 4, "renewed plans")


async def test_outcomes_are_stored_beside_what_was_predicted(
    channel: grpc.aio.Channel, predictor: Predictor, valkey: Valkey
):
    async with engine(channel, ENGINE, handles=(1,)) as connected:
        await predictor.listened_to()
        predictor.publish(3, {1: 40.0})
        await connected.step({1: 3})
        await connected.plan(lambda plan: 3 in plan.predicted_at_ages, "the prediction")
        outcome = scheduler_pb2.Outcome(
            handle=1, reason=scheduler_pb2.FINISH_REASON_STOP, output_tokens=39, latency_s=1.5, preemptions=2
        )
        await connected.step({}, finished=[outcome])
        with valkey.client() as client:
            entries = await until(lambda: client.xrange(f"trail:{{{ENGINE}}}:outcomes"), "an outcome")
    fields = {name.decode(): value.decode() for name, value in entries[0][1].items()}
    assert (fields["request_id"], fields["reason"], fields["output_tokens"]) == ("r1", "stop", "39")
    assert (fields["r1"], fields["mean"], fields["predicted_at_age"]) == ("43.0", "40.0", "3")
    assert (fields["policy"], fields["predictor"], fields["preemptions"]) == ("trail", "per_step", "2")


async def test_one_plan_for_a_whole_state_without_a_stream(channel: grpc.aio.Channel):
    stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
    request = scheduler_pb2.PlanRequest(
        capacity=scheduler_pb2.EngineCapacity(max_running_requests=1),
        policy=scheduler_pb2.PolicySettings(preemption_limit=0.5),
        waiting=[declared(1), declared(2)],
        running=[declared(3, age_tokens=10)],
        remaining_tokens=[50.0, 5.0, 90.0],
    )
    plan = (await stub.Plan(request)).plan
    assert list(plan.handles) == [2, 1, 3]
    assert [(p.victim, p.only_if_age_below, p.beneficiary) for p in plan.preemptions] == [(3, 50, 2)]
    request.remaining_tokens.append(1.0)
    with pytest.raises(grpc.aio.AioRpcError, match="remaining_tokens: has 4 entries for 3") as error:
        await stub.Plan(request)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
