from dataclasses import replace

from engine_adapter.agent.counters import Counters
from engine_adapter.agent.scheduler_outbox import SchedulerOutbox
from engine_adapter.records import Engine, handle_of
from tests.unit.engine_adapter.samples import arrived, finished, step


def outbox() -> tuple[SchedulerOutbox, Counters]:
    counters = Counters()
    made = SchedulerOutbox(counters)
    made.engine(Engine(4, 100, 16, 256))
    made.start()
    return made, counters


def test_the_newest_batch_wins_and_everything_else_adds_up() -> None:
    waiting, _ = outbox()
    waiting.arrived(arrived("c"))
    waiting.stepped(step(4, {"a": 1, "b": 7}, preempted=["x"]))
    waiting.stepped(step(5, {"a": 2}, preempted=["b"]))
    waiting.finished(finished("z", output_tokens=33))
    delta = waiting.take()
    assert delta is not None
    assert [d.request_id for d in delta.arrived] == ["c"]
    assert (list(delta.running.handles), list(delta.running.ages)) == ([handle_of("a")], [2])
    assert list(delta.running.computed_tokens) == [5]
    assert list(delta.preempted) == [handle_of("x"), handle_of("b")]
    assert [(o.handle, o.output_tokens, o.recomputed_tokens) for o in delta.finished] == [(handle_of("z"), 33, 30)]
    assert (delta.free_kv_blocks, delta.step_duration_s) == (50, 0.02)
    assert waiting.engine_step == 5
    assert waiting.take() is None


def test_a_message_tells_how_many_steps_it_covers_and_each_victim_once() -> None:
    waiting, _ = outbox()
    for number in (4, 5, 6):
        waiting.stepped(step(number, {"a": number}, preempted=["x", "y"][: number - 4]))
    delta = waiting.take()
    assert delta is not None
    assert delta.engine_steps == 3
    assert list(delta.preempted) == [handle_of("x"), handle_of("y")]
    waiting.arrived(arrived("c"))
    only_arrived = waiting.take()
    assert only_arrived is not None
    assert only_arrived.engine_steps == 0


def test_without_a_step_the_batch_is_absent_and_free_blocks_are_still_told() -> None:
    waiting, _ = outbox()
    waiting.arrived(arrived("a"))
    delta = waiting.take()
    assert delta is not None
    assert not delta.HasField("running")
    assert delta.free_kv_blocks == 100


def test_a_request_that_came_and_went_at_once_is_told_with_its_outcome() -> None:
    waiting, _ = outbox()
    waiting.arrived(arrived("a"))
    waiting.finished(finished("a"))
    delta = waiting.take()
    assert delta is not None
    assert len(delta.arrived) == len(delta.finished) == 1


def test_between_streams_nothing_piles_up_and_lost_outcomes_are_counted() -> None:
    waiting, counters = outbox()
    waiting.finished(finished("a"))
    waiting.stop()
    waiting.finished(finished("b"))
    waiting.arrived(arrived("c"))
    waiting.stepped(step(5, {"a": 2}))
    assert counters.outcomes_lost == 2
    waiting.start()
    assert waiting.take() is None


def test_an_engines_clock_that_was_set_back_makes_no_negative_times() -> None:
    waiting, _ = outbox()
    waiting.finished(replace(finished("a"), latency_s=-3600.0, time_to_first_token_s=-3599.0))
    delta = waiting.take()
    assert delta is not None
    assert [(o.latency_s, o.time_to_first_token_s) for o in delta.finished] == [(0.0, 0.0)]
