import numpy as np
import pytest

from predictor_service.evaluation.unseen import Unseen
from predictor_service.training.collect import Responses
from predictor_service.training.states import States

AGE, RESPONSE = np.array([0, 0, 1]), np.array([1, 0, 0])
RESPONSES = Responses(
    prompt=np.array([1, 0]),
    split=np.zeros(2, dtype=np.int64),
    seed=np.zeros(2, dtype=np.int64),
    prompt_tokens=np.array([1, 1]),
    finished=np.array([True, False]),
    tokens=np.array([7, 8, 9, 5, 6], dtype=np.int32),
    offsets=np.array([0, 3, 5]),
)
LENGTHS = np.array([2, 1])[RESPONSE]
HIDDEN = np.array([[30, 31, 60, 61, 90, 91]]) + np.array([[0], [2], [4]])
STATES = States(HIDDEN.astype(np.float16), AGE, RESPONSE, LENGTHS, np.array([False, True, True]))
UNSEEN = Unseen(STATES, (3, 6, 9), RESPONSES, ["Sort it", "Who?"], ["home", "away"], max_tokens=8)


def test_an_artefact_gets_its_own_layers_in_its_own_order() -> None:
    recorded = UNSEEN.recorded((9, 3))
    assert recorded.hidden.tolist() == [[90, 91, 30, 31], [92, 93, 32, 33], [94, 95, 34, 35]]
    assert [prompt.tolist() for prompt in recorded.prompts] == [[5], [7]]
    with pytest.raises(ValueError, match=r"\[4\] are not among those read, \[3, 6, 9\]"):
        UNSEEN.recorded((3, 4))


def test_requests_know_where_they_come_from() -> None:
    found = UNSEEN.requests()
    assert found.prompt.tolist() == [0, 1]
    assert found.source.tolist() == ["home", "away"]
    assert found.verb.tolist() == ["sort", "question"]
    assert found.length.tolist() == [1, 2]
    assert found.finished.tolist() == [False, True]
