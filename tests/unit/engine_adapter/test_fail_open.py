from engine_adapter.agent.fail_open import REASONS, FailOpen, Reason


def reason(fail_open: FailOpen, at_ns: int) -> Reason:
    before = fail_open.steps.copy()
    fail_open.stepped(at_ns)
    (found,) = fail_open.steps - before
    return found


def test_each_step_without_a_plan_has_one_reason() -> None:
    board = FailOpen()
    assert reason(board, 1) == "scheduler_gone"
    board.opened()
    assert reason(board, 2) == "no_plan"
    board.published(10, 20)
    assert reason(board, 25) == "plan_expired"
    board.published(30, 40)
    assert reason(board, 35) == "not_read_yet"
    board.withdrawn()
    assert reason(board, 36) == "scheduler_gone"


def test_a_step_that_was_made_before_the_newest_plan_is_told_by_the_one_before() -> None:
    board = FailOpen()
    board.opened()
    board.published(10, 20)
    assert reason(board, 9) == "no_plan"
    board.published(30, 40)
    assert reason(board, 29) == "plan_expired"


def test_every_reason_is_there_before_it_first_happens() -> None:
    assert FailOpen().steps == dict.fromkeys(REASONS, 0)
