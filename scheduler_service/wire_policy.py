"""Policies and plans between protobuf and plain values."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

import numpy as np

from scheduler_service.choice import PolicyChoice
from scheduler_service.messages import Epoch
from scheduler_service.planner import Plan
from trail.v1 import engine_pb2, scheduler_pb2

NO_PREDICTION = 2**32 - 1
_OPTIONAL: tuple[Literal["aging_s", "least_preemption_limit"], ...] = ("aging_s", "least_preemption_limit")
"""None here, negative in the contract."""
_NAMES = ("policy", "predictor", "aging")
_Number = Literal[
    "preemption_limit",
    "preemption_margin",
    "aging_s",
    "overtaking_s",
    "preemption_ratio",
    "least_preemption_limit",
    "deadline_slack_s",
    "fair_share",
]
_NUMBERS: tuple[_Number, ...] = get_args(_Number)


def changed(current: PolicyChoice, message: scheduler_pb2.PolicySettings) -> PolicyChoice:
    """`current` with what the message sets; what it leaves out stays. Raises InvalidField."""
    return current.with_changes(given(message))


def given(message: scheduler_pb2.PolicySettings) -> dict[str, Any]:
    """What the message sets."""
    found: dict[str, Any] = {name: getattr(message, name) for name in _NAMES if getattr(message, name)}
    for name in _NUMBERS:
        if message.HasField(name):
            # Single precision on the wire: 0.8 shall come back as 0.8, not as 0.800000011920929.
            found[name] = float(f"{getattr(message, name):.7g}")
    if message.HasField("max_preemptions"):
        found["max_preemptions"] = message.max_preemptions
    found |= {name: None for name in _OPTIONAL if message.HasField(name) and getattr(message, name) < 0}
    return found


def settings(choice: PolicyChoice) -> scheduler_pb2.PolicySettings:
    """A choice as the contract tells it."""
    told = dataclasses.asdict(choice)
    return scheduler_pb2.PolicySettings(**told | {name: -1.0 for name in _OPTIONAL if told[name] is None})


def epoch(value: Epoch) -> engine_pb2.Epoch:
    """An epoch as the contract tells it."""
    return engine_pb2.Epoch(incarnation=value.incarnation, counter=value.counter)


def plan(
    value: Plan, number: int, ttl_ms: int, of: Epoch | None = None, traceparent: str = ""
) -> scheduler_pb2.EnginePlan:
    """A plan as the contract tells it; without an epoch where no stream asked for it."""
    at_ages = np.where(value.predicted_at_ages < 0, NO_PREDICTION, value.predicted_at_ages)
    return scheduler_pb2.EnginePlan(
        epoch=epoch(of) if of else None,
        number=number,
        step=value.step,
        ttl_ms=ttl_ms,
        handles=value.handles.tolist(),
        ranks=value.ranks.tolist(),
        predicted_at_ages=at_ages.tolist(),
        preemptions=[
            scheduler_pb2.Preemption(
                victim=each.victim, only_if_age_below=each.only_if_age_below, beneficiary=each.beneficiary
            )
            for each in value.preemptions
        ],
        policy=value.policy,
        traceparent=traceparent,
        reserve_kv_blocks=value.reserve_blocks,
        admit_together=value.admit_together,
    )
