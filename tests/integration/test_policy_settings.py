"""Policies set and told over real gRPC: every number arrives, and none that would spoil a plan."""

import dataclasses
import math
from collections.abc import AsyncIterator

import grpc
import pytest

from scheduler_service.choice import PolicyChoice
from tests.conftest import Valkey
from tests.integration.scheduler_engine import declared, running_scheduler
from trail.v1 import scheduler_pb2, scheduler_pb2_grpc

SETTINGS: dict[str, str | float] = {
    "policy": "srpt",
    "predictor": "oracle",
    "preemption_limit": 0.7,
    "preemption_margin": 2.5,
    "max_preemptions": 3,
    "aging": "linear",
    "aging_s": 7.3,
    "overtaking_s": 41.7,
    "preemption_ratio": 5.9,
    "least_preemption_limit": 0.15,
    "deadline_slack_s": 1.7,
    "fair_share": 0.35,
}
BAD: list[tuple[str, str | float]] = [
    ("policy", "fastest"),
    ("predictor", "magic"),
    ("aging", "quadratic"),
    ("preemption_limit", 1.01),
    ("preemption_limit", -0.01),
    ("least_preemption_limit", 0.71),
    ("aging_s", 0.0),
    *((name, -0.5) for name in ("preemption_margin", "overtaking_s", "deadline_slack_s", "fair_share")),
    ("preemption_ratio", 0.99),
    *(
        (name, wrong)
        for name in SETTINGS
        if name not in ("policy", "predictor", "aging", "max_preemptions")
        for wrong in (math.nan, math.inf)
    ),
]


@pytest.fixture
async def admin(valkey: Valkey) -> AsyncIterator["Admin"]:
    async with running_scheduler(valkey) as channel:
        yield Admin(channel)


class Admin:
    """The scheduler's admin service, in plain values."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = scheduler_pb2_grpc.SchedulerAdminServiceStub(channel)
        self.scheduler = scheduler_pb2_grpc.SchedulerServiceStub(channel)

    async def set(self, engine_id: str = "", **policy: object) -> dict[str, object]:
        message = scheduler_pb2.PolicySettings(**policy)
        request = scheduler_pb2.SetPolicyRequest(engine_id=engine_id, policy=message)
        return plain((await self._stub.SetPolicy(request)).policy)

    async def get(self, engine_id: str = "") -> dict[str, object]:
        return plain((await self._stub.GetPolicy(scheduler_pb2.GetPolicyRequest(engine_id=engine_id))).policy)


def plain(message: scheduler_pb2.PolicySettings) -> dict[str, object]:
    """Every field of the message, in as many digits as single precision keeps."""
    values = {field.name: getattr(message, field.name) for field in message.DESCRIPTOR.fields}
    return {name: float(f"{value:.7g}") if isinstance(value, float) else value for name, value in values.items()}


def test_the_contract_tells_all_that_can_be_chosen():
    in_contract = {field.name for field in scheduler_pb2.PolicySettings.DESCRIPTOR.fields}
    assert in_contract == {field.name for field in dataclasses.fields(PolicyChoice)} == set(SETTINGS)


async def test_every_setting_comes_back_as_it_was_set(admin: Admin):
    assert await admin.set(**SETTINGS) == SETTINGS
    assert await admin.get() == await admin.get("any engine") == SETTINGS


async def test_each_setting_can_be_changed_alone_and_for_one_engine(admin: Admin):
    others = {
        "aging": "none", "aging_s": 9.9, "overtaking_s": 0.0, "preemption_ratio": 1.0, "least_preemption_limit": 0.0,
        "deadline_slack_s": 0.0, "fair_share": 0.0,
    }  # fmt: skip
    await admin.set(**SETTINGS)
    expected: dict[str, object] = dict(SETTINGS)
    for name, value in others.items():
        expected[name] = value
        assert await admin.set("one", **{name: value}) == expected
    assert await admin.get("one") == expected
    assert await admin.get("another") == SETTINGS


async def test_a_negative_number_unsets_what_may_be_unset_and_is_told_as_minus_one(admin: Admin):
    await admin.set(**SETTINGS)
    assert await admin.set(aging_s=-3.0, least_preemption_limit=-0.2) == SETTINGS | {
        "aging_s": -1.0,
        "least_preemption_limit": -1.0,
    }
    told = await admin.get()
    assert await admin.set(**told) == told


async def test_a_scheduler_that_was_told_nothing_tells_what_is_unset(admin: Admin):
    told = await admin.get()
    assert (told["aging_s"], told["least_preemption_limit"]) == (-1.0, -1.0)


async def test_each_bad_value_is_refused_by_name_and_changes_nothing(admin: Admin):
    await admin.set(**SETTINGS)
    for name, value in BAD:
        with pytest.raises(grpc.aio.AioRpcError, match=rf"policy\.{name}: ") as error:
            await admin.set(**{"max_preemptions": 8, name: value})
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert await admin.get() == SETTINGS


async def test_a_limit_that_would_fall_below_its_own_least_is_refused(admin: Admin):
    await admin.set(**SETTINGS)
    with pytest.raises(grpc.aio.AioRpcError, match="least_preemption_limit: 0.15 is not within 0 to preemption_limit"):
        await admin.set(preemption_limit=0.1)
    assert (await admin.set(preemption_limit=0.1, least_preemption_limit=-1.0))["preemption_limit"] == 0.1


@pytest.mark.parametrize("name", ["remaining_tokens", "initial_tokens"])
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -1.0])
async def test_a_plan_from_lengths_that_are_none_is_refused(admin: Admin, name: str, wrong: float):
    lengths = {"remaining_tokens": [5.0, 9.0], "initial_tokens": [5.0, 9.0]}
    request = scheduler_pb2.PlanRequest(waiting=[declared(1), declared(2)], **lengths | {name: [5.0, wrong]})
    with pytest.raises(grpc.aio.AioRpcError, match=f"{name}: must be finite and 0 or more") as error:
        await admin.scheduler.Plan(request)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_bad_policy_for_one_plan_is_refused_and_a_good_one_is_for_that_plan_alone(admin: Admin):
    await admin.set(**SETTINGS)
    rows = {"waiting": [declared(1), declared(2)], "remaining_tokens": [90.0, 5.0]}

    async def order(**policy: object) -> list[int]:
        message = scheduler_pb2.PolicySettings(predictor="per_step", **policy)
        return list((await admin.scheduler.Plan(scheduler_pb2.PlanRequest(policy=message, **rows))).plan.handles)

    with pytest.raises(grpc.aio.AioRpcError, match=r"policy\.preemption_ratio: 0.5 is not 1 or more"):
        await order(preemption_ratio=0.5)
    assert await order(policy="fcfs") == [1, 2]
    assert await order(aging="none") == [2, 1]
    assert await admin.get() == SETTINGS
