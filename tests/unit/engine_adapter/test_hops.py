import numpy as np

from engine_adapter.agent.hops import Hops
from engine_adapter.board import NO_PREDICTION_AGE
from engine_adapter.records import handle_of
from sidecar.tracing import Tracing
from tests.unit.engine_adapter.samples import rows


def hops() -> Hops:
    return Hops("engine", Tracing())


def counts(told: Hops) -> dict[str, float]:
    samples = [sample for metric in told.seconds.collect() for sample in metric.samples]
    return {sample.labels["hop"]: sample.value for sample in samples if sample.name.endswith("_count")}


def plan(told: Hops, at_ages: dict[str, int]) -> None:
    handles = np.array([handle_of(name) for name in at_ages], np.uint64)
    told.planned(handles, np.array(list(at_ages.values()), np.uint32), "", 0.0)


def test_each_message_and_its_answer_count_once() -> None:
    told = hops()
    told.read(rows({"a": 1}))
    told.read(rows({"a": 2}))
    assert told.sending() == ""
    told.answered()
    assert (counts(told)["send"], counts(told)["answer"]) == (1, 1)
    told.sending()  # without rows
    assert counts(told)["send"] == 1


def test_only_a_plan_that_rests_on_the_rows_ends_their_way() -> None:
    told = hops()
    told.read(rows({"a": 7}))
    for age in (0, 6, NO_PREDICTION_AGE):
        plan(told, {"b": 9, "a": age})
    assert counts(told)["plan"] == 0
    plan(told, {"b": 9, "a": 7})
    assert counts(told)["plan"] == 1
    plan(told, {"b": 9, "a": 8})
    assert counts(told)["plan"] == 1


def test_a_request_that_ended_on_the_way_counts_for_nothing_and_gives_way() -> None:
    told = hops()
    told.read(rows({"a": 7}))
    plan(told, {"b": 9})
    told.read(rows({"b": 10}))
    plan(told, {"b": 10})
    assert counts(told)["plan"] == 1


def test_what_waited_when_the_stream_ended_is_not_timed() -> None:
    told = hops()
    told.read(rows({"a": 7}))
    told.cut()
    told.sending()
    plan(told, {"a": 7})
    assert counts(told) == {"send": 0, "answer": 0, "plan": 0}
