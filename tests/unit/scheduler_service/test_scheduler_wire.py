"""What is refused at the door, and how it is told."""

import pytest

from scheduler_service import wire, wire_policy, wire_store
from scheduler_service.choice import PolicyBook, PolicyChoice
from sidecar.errors import InvalidField, Refused
from trail.v1 import engine_pb2, predictor_pb2, scheduler_pb2, state_pb2

EPOCH = engine_pb2.Epoch(incarnation=3, counter=1)


def declared(handle: int = 5, **more: object) -> engine_pb2.RequestDeclaration:
    return engine_pb2.RequestDeclaration(**{"handle": handle, "request_id": "a"} | more)


def running(handles: list[int], ages: list[int], computed: list[int]) -> scheduler_pb2.RunningRequests:
    return scheduler_pb2.RunningRequests(handles=handles, ages=ages, computed_tokens=computed)


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"epoch": engine_pb2.Epoch()}, "delta.epoch.incarnation"),
        ({"arrived": [declared(), declared()]}, "delta.arrived.handle"),
        ({"arrived": [declared(0)]}, "delta.arrived.handle"),
        ({"arrived": [engine_pb2.RequestDeclaration(handle=1)]}, "delta.arrived.request_id"),
        ({"arrived": [declared(request_id="x" * 300)]}, "delta.arrived.request_id"),
        ({"arrived": [declared(arrival_time_s=float("nan"))]}, "delta.arrived.arrival_time_s"),
        ({"arrived": [declared(tenant="é" * 129)]}, "delta.arrived.tenant"),
        ({"running": running([1, 2], [1], [1, 1])}, "delta.running.ages"),
        ({"running": running([1, 2], [1, 1], [1])}, "delta.running.computed_tokens"),
        ({"running": running([1, 1], [1, 1], [1, 1])}, "delta.running.handles"),
        ({"running": running([1, 2, 3, 4, 5], [1] * 5, [1] * 5)}, "delta.running.handles"),
        ({"preempted": [4, 4]}, "delta.preempted"),
        ({"finished": [scheduler_pb2.Outcome(handle=4)] * 2}, "delta.finished.handle"),
        ({"finished": [scheduler_pb2.Outcome(handle=4, output_tokens=2**32 - 1)]}, "delta.finished.output_tokens"),
        ({"step_duration_s": -1.0}, "delta.step_duration_s"),
    ],
)
def test_a_malformed_delta_is_refused_with_the_field_that_is_wrong(fields: dict[str, object], names: str):
    with pytest.raises(InvalidField) as error:
        wire.delta(scheduler_pb2.StateDelta(**{"epoch": EPOCH} | fields), max_rows=4)
    assert error.value.field == names


def test_more_than_may_live_is_refused_before_anything_is_made_of_it():
    wire.check_counts(4, 16, 4, "delta.arrived")
    with pytest.raises(Refused, match="delta.arrived: 5 living requests are too many .limit 4."):
        wire.check_counts(5, 0, 4, "delta.arrived")
    with pytest.raises(InvalidField, match="delta.finished: 17 are too many"):
        wire.check_counts(0, 17, 4, "delta.arrived")


@pytest.mark.parametrize("engine_id", ["", "a b", "x{y}", "é", "a" * 129])
def test_an_engine_id_that_could_not_name_a_key_is_refused(engine_id: str):
    with pytest.raises(InvalidField, match="open.engine_id"):
        wire.opening(scheduler_pb2.OpenCoordinate(engine_id=engine_id, epoch=EPOCH))


def test_a_delta_without_a_batch_says_that_the_batch_did_not_change():
    assert wire.delta(scheduler_pb2.StateDelta(epoch=EPOCH), 4).running is None
    empty = scheduler_pb2.StateDelta(epoch=EPOCH, running=scheduler_pb2.RunningRequests())
    assert wire.delta(empty, 4).running is not None


@pytest.mark.parametrize(
    ("message", "valid"),
    [
        ({"policy": "best"}, "fcfs, priority, sjf, srpt, trail"),
        ({"predictor": "magic"}, "per_step, prompt_only, shuffled, oracle"),
        ({"preemption_limit": 1.5}, "0 to 1"),
        ({"preemption_limit": float("nan")}, "0 to 1"),
        ({"preemption_margin": -1.0}, "0 or more"),
    ],
)
def test_a_wrong_policy_is_refused_with_what_would_be_right(message: dict[str, object], valid: str):
    with pytest.raises(InvalidField, match=valid):
        wire_policy.changed(PolicyChoice(), scheduler_pb2.PolicySettings(**message))


def test_what_a_policy_change_leaves_out_stays():
    before = PolicyChoice("srpt", "oracle", 0.3, 2.0, 5)
    assert wire_policy.changed(before, scheduler_pb2.PolicySettings()) == before
    after = wire_policy.changed(before, scheduler_pb2.PolicySettings(policy="trail", preemption_limit=0.8))
    assert after == PolicyChoice("trail", "oracle", 0.8, 2.0, 5)
    assert wire_policy.changed(after, wire_policy.settings(after)) == after


def test_a_policy_for_every_engine_replaces_those_of_single_ones():
    book = PolicyBook(PolicyChoice())
    book.set("a", PolicyChoice("fcfs"))
    assert (book.get("a").policy, book.get("b").policy) == ("fcfs", "trail")
    book.set("", PolicyChoice("sjf"))
    assert (book.get("a").policy, book.get("b").policy, book.get("").policy) == ("sjf", "sjf", "sjf")


def _lists(rows: predictor_pb2.StepPredictions) -> state_pb2.PublishedPredictions:
    return state_pb2.PublishedPredictions(epoch=EPOCH, number=4, predictions=rows)


@pytest.mark.parametrize(
    ("stage", "r0", "r1"),
    [
        (predictor_pb2.STAGE_PROMPT, 50.0, 0.0),
        (predictor_pb2.STAGE_EXTERNAL, 50.0, 0.0),
        (predictor_pb2.STAGE_PREFILL, 0.0, 50.0),
        (predictor_pb2.STAGE_DECODE, 0.0, 50.0),
    ],
)
def test_initial_is_r0_until_prefill_and_r1_from_then_on(stage: int, r0: float, r1: float):
    rows = predictor_pb2.StepPredictions(
        handles=[9], ages=[2], stages=[stage], mean=[48.0], median=[40.0], p10=[9.0], p90=[99.0], initial=[50.0]
    )
    message = wire_store.published(_lists(rows).SerializeToString())
    assert (message.number, message.epoch.incarnation, message.handles.tolist()) == (4, 3, [9])
    assert (message.predictions.r0[0], message.predictions.r1[0]) == (r0, r1)


@pytest.mark.parametrize(
    "data", [b"\xff\xff", _lists(predictor_pb2.StepPredictions(handles=[1, 2], ages=[1])).SerializeToString()]
)
def test_what_is_no_message_is_unreadable(data: bytes):
    with pytest.raises(wire_store.Unreadable):
        wire_store.published(data)


def test_unreadable_records_are_counted_and_the_others_used():
    good = state_pb2.StoredPosterior(age_tokens=3, stage=predictor_pb2.STAGE_DECODE, mean=7, r0=9, r1=10)
    read = wire_store.snapshot({b"a": good.SerializeToString(), b"b": b"\xff", b"\xff": b""})
    assert (read.request_ids, read.unreadable) == (("a",), 2)
    assert (read.predictions.mean[0], read.predictions.r0[0], read.predictions.r1[0]) == (7.0, 9.0, 10.0)
