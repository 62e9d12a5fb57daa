import numpy as np

from engine_adapter.agent.counters import Counters
from engine_adapter.agent.predictor_outbox import PredictorOutbox
from engine_adapter.records import handle_of
from tests.unit.engine_adapter.samples import arrived, rows
from trail.v1 import predictor_pb2


def outbox(max_rows: int = 100) -> tuple[PredictorOutbox, Counters]:
    counters = Counters()
    made = PredictorOutbox(max_rows, counters)
    made.start()
    return made, counters


def taken(waiting: PredictorOutbox) -> predictor_pb2.PredictStep | None:
    request = waiting.take()
    return None if request is None else request.step


def test_one_message_carries_everything_that_waited_and_then_nothing_waits() -> None:
    waiting, counters = outbox()
    waiting.arrived(arrived("new", prompt=[5, 6]))
    waiting.finished(handle_of("old"))
    waiting.rows(rows({"a": 4, "b": 0}, number=9))
    message = taken(waiting)
    assert message is not None
    assert [d.request_id for d in message.declared] == ["new"]
    assert list(message.declared[0].prompt_token_ids) == [5, 6]
    assert list(message.finished) == [handle_of("old")]
    assert list(message.decodes.handles) == [handle_of("a")]
    assert np.frombuffer(message.decodes.last.data, np.float32).tolist() == [9, 4]
    assert (message.decodes.last.rows, message.decodes.last.dim) == (1, 2)
    assert list(message.prompts.handles) == [handle_of("b")]
    assert np.frombuffer(message.prompts.last.data, np.float32).tolist() == [9, 0]
    assert waiting.engine_step == 9
    assert counters.rows_shipped == 2
    assert taken(waiting) is None


def test_older_rows_are_dropped_and_counted_but_declarations_never() -> None:
    waiting, counters = outbox()
    for number in range(1, 6):
        waiting.arrived(arrived(f"r{number}"))
        waiting.rows(rows({"a": number}, number=number))
    message = taken(waiting)
    assert message is not None
    assert len(message.declared) == 5
    assert list(message.decodes.ages) == [5]
    assert counters.rows_dropped == 4


def test_rows_beyond_the_limit_wait_for_the_next_message() -> None:
    waiting, _ = outbox(max_rows=2)
    waiting.rows(rows({"a": 1, "b": 2, "c": 3}))
    first, second = taken(waiting), taken(waiting)
    assert first is not None
    assert second is not None
    assert list(first.decodes.ages) + list(second.decodes.ages) == [1, 2, 3]
    assert taken(waiting) is None


def test_a_row_of_a_finished_request_is_not_sent() -> None:
    waiting, counters = outbox()
    waiting.rows(rows({"a": 1, "b": 2, "c": 0}))
    waiting.finished(handle_of("a"))
    waiting.finished(handle_of("c"))
    message = taken(waiting)
    assert message is not None
    assert list(message.decodes.handles) == [handle_of("b")]
    assert not message.HasField("prompts")
    assert counters.rows_dropped == 2


def test_a_request_that_came_and_went_unsent_is_never_mentioned() -> None:
    waiting, _ = outbox()
    waiting.arrived(arrived("a"))
    waiting.finished(handle_of("a"))
    assert taken(waiting) is None


def test_a_handle_that_is_used_anew_is_declared_after_its_end_was_sent() -> None:
    waiting, _ = outbox()
    waiting.finished(handle_of("a"))
    waiting.arrived(arrived("a"))
    first, second = taken(waiting), taken(waiting)
    assert first is not None
    assert second is not None
    assert (len(first.finished), len(first.declared)) == (1, 0)
    assert (len(second.finished), len(second.declared)) == (0, 1)


def test_between_streams_nothing_piles_up() -> None:
    waiting, counters = outbox()
    waiting.rows(rows({"a": 1}))
    waiting.stop()
    for number in range(100):
        waiting.arrived(arrived(f"r{number}"))
        waiting.finished(handle_of("x"))
        waiting.rows(rows({"a": number}))
    assert counters.rows_dropped == 101
    waiting.start()
    assert taken(waiting) is None


def test_no_row_is_sent_of_a_request_that_came_and_went_unsent() -> None:
    waiting, counters = outbox()
    waiting.arrived(arrived("a"))
    waiting.rows(rows({"a": 1, "b": 2}))
    waiting.finished(handle_of("a"))
    message = taken(waiting)
    assert message is not None
    assert list(message.decodes.handles) == [handle_of("b")]
    assert counters.rows_dropped == 1


def test_rows_that_come_while_a_stream_moves_are_for_the_next_stream() -> None:
    waiting, counters = outbox()
    waiting.rows(rows({"a": 1, "b": 2}))
    waiting.arrived(arrived("c"))
    waiting.finished(handle_of("b"))
    waiting.start()
    message = taken(waiting)
    assert message is not None
    assert list(message.decodes.handles) == [handle_of("a")]
    assert not message.declared
    assert not message.finished
    assert counters.rows_dropped == 1
