"""Experiments between protobuf and plain values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from scheduler_service import wire_policy
from scheduler_service.choice import PolicyChoice
from scheduler_service.experiments.analysis.pairs import Block
from scheduler_service.experiments.design import Arm, Design
from scheduler_service.experiments.record import Record, State
from scheduler_service.experiments.shadow import Comparison
from trail.v1 import experiment_pb2

_STATES = {
    State.CREATED: experiment_pb2.EXPERIMENT_STATE_CREATED,
    State.RUNNING: experiment_pb2.EXPERIMENT_STATE_RUNNING,
    State.HALTED: experiment_pb2.EXPERIMENT_STATE_HALTED,
    State.FINISHED: experiment_pb2.EXPERIMENT_STATE_FINISHED,
    State.STOPPED: experiment_pb2.EXPERIMENT_STATE_STOPPED,
}
_RAILS = ("p99_latency_s", "error_rate", "waiting_s", "worse")


def given(message: experiment_pb2.ExperimentDesign, connected: Sequence[str]) -> dict[str, Any]:
    """A design as it was asked for, not checked yet; 0 for what it leaves open."""
    return {
        "name": message.name,
        "arms": [_arm(each) for each in message.arms],
        "engines": list(message.engine_ids) or list(connected),
        "block_s": message.block_s,
        "washout_s": message.washout_s,
        "groups": message.groups,
        "figure": message.figure or "mean_latency",
        "alpha": message.alpha or 0.05,
        "noise": message.noise,
        "guardrails": {name: getattr(message.guardrails, name) for name in _RAILS},
        "seed": message.seed,
    }


def _arm(message: experiment_pb2.ExperimentArm) -> dict[str, Any]:
    policy = wire_policy.given(message.policy)
    return {"name": message.name, "policy": policy, "artefact": message.artefact, "shadow": message.shadow}


def design(value: Design) -> experiment_pb2.ExperimentDesign:
    """As the contract tells it."""
    rails = value.guardrails
    return experiment_pb2.ExperimentDesign(
        name=value.name,
        arms=[arm(each) for each in value.arms],
        engine_ids=value.engines,
        block_s=value.block_s,
        washout_s=value.washout_s,
        groups=value.groups,
        figure=value.figure,
        alpha=value.alpha,
        noise=value.noise,
        guardrails=experiment_pb2.ExperimentGuardrails(**{name: getattr(rails, name) for name in _RAILS}),
        seed=value.seed,
    )


def arm(value: Arm) -> experiment_pb2.ExperimentArm:
    whole = wire_policy.settings(value.choice(PolicyChoice()))
    policy = type(whole)(**{name: getattr(whole, name) for name in value.policy})
    return experiment_pb2.ExperimentArm(name=value.name, policy=policy, artefact=value.artefact, shadow=value.shadow)


def experiment(record: Record, now_s: float) -> experiment_pb2.Experiment:
    """What is known without what was counted."""
    timeline = record.timeline
    serving = [record.serving(engine_id, now_s) for engine_id in record.design.engines]
    return experiment_pb2.Experiment(
        design=design(record.design),
        state=_STATES[record.state(now_s)],
        created_s=record.created_s,
        start_s=record.start_s or 0.0,
        end_s=0.0 if timeline is None else min(timeline.end_s, record.ended_s()),
        now_s=now_s,
        reason="; ".join(each.reason for each in (record.halted, record.stopped) if each is not None and each.reason),
        arms_now=["" if each is None else each[0].name for each in serving],
    )


def block(value: Block) -> experiment_pb2.ExperimentBlock:
    """As the contract tells it."""
    return experiment_pb2.ExperimentBlock(
        engine_id=value.engine_id,
        number=value.number,
        arm=value.arm,
        requests=value.requests,
        figures=value.figures,
        void=value.void,
    )


def block_of(message: experiment_pb2.ExperimentBlock) -> Block:
    """As a client reads it."""
    figures: Mapping[str, float] = dict(message.figures)
    return Block(message.engine_id, message.number, message.arm, message.requests, figures, message.void)


def shadows(compared: Iterable[Comparison]) -> list[experiment_pb2.ExperimentShadow]:
    """By arm."""
    of_arm: dict[str, list[Comparison]] = defaultdict(list)
    for each in compared:
        of_arm[each.arm].append(each)
    return [
        experiment_pb2.ExperimentShadow(
            arm=arm,
            plans=len(plans),
            mean_order_agreement=float(np.mean([each.agreement for each in plans])),
            same_first=float(np.mean([each.same_first for each in plans])),
            mean_preemptions=float(np.mean([each.preemptions for each in plans])),
            mean_preemptions_sent=float(np.mean([each.preemptions_sent for each in plans])),
        )
        for arm, plans in sorted(of_arm.items())
    ]
