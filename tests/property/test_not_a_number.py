"""What is no number never reaches a plan, wherever it comes in."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler_service import wire, wire_store
from scheduler_service.choice import PolicyChoice
from scheduler_service.messages import Declaration, Delta, Epoch, PublishedMessage, Running, Snapshot
from scheduler_service.pairing import PAIRINGS
from scheduler_service.planner import PlannerLimits, make_plan, rank
from scheduler_service.policies import POLICIES
from scheduler_service.state import EngineState
from scheduler_service.view import Capacity
from sidecar.errors import InvalidField
from trail.v1 import engine_pb2, predictor_pb2, scheduler_pb2, state_pb2

LENGTHS = ("mean", "median", "p10", "p90")
FIELDS = (*LENGTHS, "initial")
WRONG = (math.nan, math.inf, -math.inf, -1.0)
ANY_LENGTHS = st.lists(st.floats(width=32), min_size=len(FIELDS), max_size=len(FIELDS))
STAGES = st.sampled_from([predictor_pb2.STAGE_PROMPT, predictor_pb2.STAGE_DECODE])


def published(handle: int, stage: int, *lengths: float) -> PublishedMessage:
    """As it lies on the predictions channel, and read from there."""
    rows = predictor_pb2.StepPredictions(
        handles=[handle], ages=[0], stages=[stage], **{name: [of] for name, of in zip(FIELDS, lengths, strict=True)}
    )
    message = state_pb2.PublishedPredictions(epoch=engine_pb2.Epoch(incarnation=1), number=1, predictions=rows)
    return wire_store.published(message.SerializeToString())


def stored(handle: int, stage: int, *lengths: float) -> Snapshot:
    """As it lies in the store, and read from there."""
    named = dict(zip((*LENGTHS, "r0"), lengths, strict=True))
    record = state_pb2.StoredPosterior(handle=handle, stage=stage, r1=lengths[-1], **named)
    return wire_store.snapshot({f"r{handle}".encode(): record.SerializeToString()})


def engine(requests: int) -> EngineState:
    """The first of the requests runs, the others wait."""
    state = EngineState(Capacity(1, 100, 16, 512))
    arrived = tuple(
        Declaration(handle, f"r{handle}", 10, arrival_s=1.7e9 + handle) for handle in range(1, requests + 1)
    )
    batch = Running(np.array([1], np.uint64), np.array([4]), np.array([13]))
    state.apply(Delta(Epoch(1, 0), 1, arrived=arrived, running=batch, free_kv_blocks=50))
    return state


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("field", range(len(FIELDS)))
@pytest.mark.parametrize("way", [published, stored])
def test_a_prediction_with_one_wrong_number_counts_as_none(
    way: Callable[..., PublishedMessage | Snapshot], field: int, wrong: float
):
    lengths = [5.0] * len(FIELDS)
    lengths[field] = wrong
    state = engine(3)
    said = way(2, predictor_pb2.STAGE_DECODE, *lengths)
    used = state.apply_predictions(said) if isinstance(said, PublishedMessage) else state.apply_snapshot(said)
    state.apply_predictions(published(3, predictor_pb2.STAGE_DECODE, *[5.0] * len(FIELDS)))
    plan = make_plan(state.view(), PolicyChoice("srpt", aging="none"), PlannerLimits())
    assert used == 0
    assert plan.handles.tolist() == [3, 1, 2]
    assert plan.predicted_at_ages.tolist() == [0, -1, -1]


@given(ANY_LENGTHS, ANY_LENGTHS, STAGES, st.sampled_from(sorted(PAIRINGS)), st.sampled_from(["none", "exponential"]))
@settings(deadline=None, max_examples=60)
def test_whatever_a_predictor_says_every_policy_ranks_by_numbers(one, other, stage, predictor, aging):
    state = engine(4)
    state.apply_predictions(published(1, stage, *one))
    state.apply_predictions(published(2, stage, *other))
    state.apply_snapshot(stored(3, stage, *one))
    view = state.view(now_s=1.7e9 + 9, overtaking_s=1.0)
    for policy in POLICIES:
        for unit in ("seconds", "tokens"):
            choice = PolicyChoice(policy, predictor, aging=aging, deadline_slack_s=5.0, fair_share=1.0)
            ranked = rank(view, choice, unit)
            assert np.isfinite(ranked.ranking.ranks).all(), policy
            assert np.isfinite(ranked.work.expected).all()
            plan = make_plan(view, choice, PlannerLimits(unit=unit))
            assert sorted(plan.handles.tolist()) == [1, 2, 3, 4]


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("arrived.arrival_time_s", lambda wrong: {"arrived": [_declared(arrival_time_s=wrong)]}),
        ("arrived.deadline_s", lambda wrong: {"arrived": [_declared(deadline_s=wrong)]}),
        ("step_duration_s", lambda wrong: {"step_duration_s": wrong}),
        ("finished.latency_s", lambda wrong: {"finished": [scheduler_pb2.Outcome(handle=1, latency_s=wrong)]}),
    ],
)
def test_a_time_that_is_none_is_refused_by_name(name: str, message: Callable[[float], dict[str, object]], wrong: float):
    delta = scheduler_pb2.StateDelta(epoch=engine_pb2.Epoch(incarnation=1), **message(wrong))
    with pytest.raises(InvalidField) as error:
        wire.delta(delta, 4)
    assert error.value.field == f"delta.{name}"


def _declared(**times: float) -> engine_pb2.RequestDeclaration:
    return engine_pb2.RequestDeclaration(handle=1, request_id="a", **times)
