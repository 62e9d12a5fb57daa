import numpy as np
import pytest

from predictor_service.evaluation.recorded import Recorded, turns
from predictor_service.training.collect import Responses
from predictor_service.training.states import States


def test_turns_are_those_of_an_engine_with_that_many_slots() -> None:
    lengths = np.array([2, 1, 3, 1])
    seen: dict[int, list[int]] = {}
    alive: set[int] = set()
    for turn in turns(lengths, slots=2):
        alive -= set(turn.left.tolist())
        assert set(turn.shipped.tolist()) == alive
        alive |= set(turn.joined.tolist())
        assert len(alive) <= 2
        for request, age in zip(turn.shipped.tolist(), turn.ages.tolist(), strict=True):
            seen.setdefault(request, []).append(age)
    assert seen == {0: [0, 1], 1: [0], 2: [0, 1, 2], 3: [0]}
    assert not alive


def responses(lengths: list[int]) -> Responses:
    """Each with a prompt of two tokens, 10 * row and the next."""
    rows = [[10 * row, 10 * row + 1, *range(100, 100 + length)] for row, length in enumerate(lengths)]
    count = len(lengths)
    return Responses(
        np.arange(count), np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64), np.full(count, 2),
        np.ones(count, dtype=bool), np.concatenate(rows).astype(np.int32), np.cumsum([0, *map(len, rows)]),
    )  # fmt: skip


def states(drawn: Responses, order: list[int]) -> States:
    lengths = drawn.lengths
    age = np.concatenate([np.arange(lengths[row]) for row in order])
    response = np.repeat(order, lengths[order])
    hidden = (1000 * response + age)[:, None].astype(np.float16)
    return States(hidden, age, response, lengths[response], np.ones(len(age), dtype=bool))


def test_requests_keep_the_order_of_their_states_and_bring_their_prompts() -> None:
    drawn = responses([3, 1, 2])
    recorded = Recorded.of(states(drawn, [2, 0, 1]), drawn, max_tokens=9)
    assert [prompt.tolist() for prompt in recorded.prompts] == [[20, 21], [0, 1], [10, 11]]
    assert recorded.lengths.tolist() == [2, 3, 1]
    assert recorded.request.tolist() == [0, 0, 1, 1, 1, 2]
    assert recorded.remaining.tolist() == [2, 1, 3, 2, 1, 1]


def test_states_of_some_ages_only_cannot_be_replayed() -> None:
    drawn = responses([3, 2])
    whole = states(drawn, [0, 1])
    for rows in ([0, 2, 3, 4], [0, 1, 3, 4], [1, 2, 3, 4]):
        part = States(*(getattr(whole, name)[rows] for name in ("hidden", "age", "response", "lengths", "finished")))
        with pytest.raises(ValueError, match="every age of each response"):
            Recorded.of(part, drawn, max_tokens=9)
