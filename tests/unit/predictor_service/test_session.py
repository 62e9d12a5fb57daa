from dataclasses import replace

import grpc
import numpy as np
import pytest

from predictor_service.artefact import Artefact, load
from predictor_service.prompt import Prompt
from predictor_service.session import EngineSession
from predictor_service.step import Applied, Declaration, Rows, Stage, Step
from sidecar.errors import InvalidField, Refused
from tests import artefacts
from tests.unit.predictor_service.records import listed

DIM = 16
NO_ROWS = Rows(np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros((0, DIM), np.float16))
HIDDEN = np.random.default_rng(0).standard_normal((200, DIM)).astype(np.float16)


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    return load(artefacts.make(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def session(artefact: Artefact) -> EngineSession:
    return EngineSession(artefact, max_requests=100)


def declare(handle: int, age_tokens: int = 0, request_id: str = "") -> Declaration:
    prompt = Prompt(np.array([handle, 2, 3], dtype=np.uint32), 3)
    return Declaration(handle, request_id or f"r{handle}", prompt, age_tokens)


def rows(**ages: int) -> Rows:
    """Of handle 1 at age 4: rows(h1=4)."""
    handles = np.array([int(name[1:]) for name in ages], dtype=np.uint64)
    return Rows(handles, np.array(list(ages.values())), HIDDEN[: len(handles)])


def step(
    number: int, *declared: Declaration, prompts: Rows = NO_ROWS, decodes: Rows = NO_ROWS, finished: int = 0
) -> Step:
    gone = np.array([finished] if finished else [], dtype=np.uint64)
    return Step(number, declared, prompts, decodes, gone)


def mean_of(applied: Applied, handle: int) -> float:
    return float(applied.predictions.mean[applied.predictions.handles == handle][0])


def test_a_request_adopted_in_mid_decode_starts_from_what_the_classifier_says(
    session: EngineSession, artefact: Artefact
) -> None:
    opened, _ = session.open([declare(1, age_tokens=40)], {})
    r0 = opened.predictions.initial[0]
    found = session.apply(step(1, decodes=rows(h1=40))).predictions
    p = artefact.classifier(HIDDEN[:1], np.array([40]))
    assert found.mean == pytest.approx(artefact.bins.mean(p), rel=1e-6)
    assert found.initial[0] == r0
    assert found.stages[0] == Stage.DECODE


def test_a_prompt_prediction_is_conditioned_on_the_tokens_already_generated(
    session: EngineSession, artefact: Artefact
) -> None:
    opened, _ = session.open([declare(1), declare(2, age_tokens=50)], {})
    total = artefact.prompt([declare(2).prompt])
    expected = artefact.bins.mean(artefact.transition.advance(total, np.array([50])))
    assert mean_of(opened, 2) == pytest.approx(expected[0], rel=1e-3)
    assert list(opened.predictions.ages) == [0, 50]


def test_two_requests_with_the_same_rows_but_other_gaps_differ(session: EngineSession) -> None:
    session.open([declare(1), declare(2)], {})
    session.apply(step(1, decodes=rows(h1=1, h2=90)))
    same = Rows(np.array([1, 2], dtype=np.uint64), np.array([91, 91]), HIDDEN[[0, 0]])
    found = session.apply(step(2, decodes=same))
    assert mean_of(found, 1) != pytest.approx(mean_of(found, 2), rel=1e-3)


def test_of_memory_and_store_the_newer_record_counts(session: EngineSession) -> None:
    session.open([declare(1), declare(2)], {})
    stored = listed(session.apply(step(1, decodes=rows(h1=5, h2=5))).records)
    newest = listed(session.apply(step(2, decodes=rows(h1=6))).records)[0]
    other_replica = replace(stored[1], age_tokens=9)
    records = {"r1": stored[0], "r2": other_replica, "r3": replace(stored[0], request_id="r3")}
    opened, restored = session.open([declare(1, 6), declare(2, 9), declare(3, 6)], records)
    assert list(opened.predictions.ages) == [newest.age_tokens, 9, 5]
    assert restored == 3


def test_opening_forgets_whom_the_agent_does_not_name(session: EngineSession) -> None:
    session.open([declare(1), declare(2)], {})
    opened, _ = session.open([declare(2)], {})
    assert opened.gone == ["r1"]
    assert list(opened.predictions.handles) == [2]


def test_steps_count_anew_with_each_opening(session: EngineSession) -> None:
    session.open([declare(1)], {})
    session.apply(step(100, decodes=rows(h1=1)))
    session.open([declare(1)], {})
    assert len(session.apply(step(1, decodes=rows(h1=2))).predictions) == 1


def test_a_slot_that_is_used_again_knows_nothing_of_its_last_request(session: EngineSession) -> None:
    session.open([], {})
    for number in range(1, 150):
        begun = session.apply(step(2 * number, declare(number)))
        assert begun.predictions.stages[0] == Stage.PROMPT
        assert listed(begun.records)[0].r1 == 0
        assert listed(begun.records)[0].step == 0
        ended = session.apply(step(2 * number + 1, prompts=rows(**{f"h{number}": 0}), finished=number))
        assert (len(ended.predictions), ended.gone) == (0, [f"r{number}"])
    assert len(session.requests) == 0


@pytest.mark.parametrize("clash", [declare(1, request_id="other"), declare(7, request_id="r1")])
def test_a_message_with_clashing_names_changes_nothing(session: EngineSession, clash: Declaration) -> None:
    session.open([declare(1)], {})
    with pytest.raises(InvalidField, match="declared"):
        session.apply(step(1, declare(2), clash))
    assert session.requests.ids == ["r1"]
    assert len(session.apply(step(1, declare(2))).predictions) == 1


def test_a_message_with_too_many_requests_changes_nothing(session: EngineSession) -> None:
    session.open([], {})
    with pytest.raises(Refused, match="100") as refused:
        session.apply(step(1, *map(declare, range(1, 102))))
    assert refused.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(session.requests) == 0


def test_a_float32_row_beyond_float16_is_not_finite(session: EngineSession) -> None:
    session.open([declare(1), declare(2)], {})
    hidden = HIDDEN[:2].astype(np.float32)
    hidden[0, 3] = 1e30
    found = session.apply(
        step(1, decodes=Rows(np.array([1, 2], dtype=np.uint64), np.array([1, 1]), hidden))
    ).predictions
    assert list(found.handles) == [2]
    assert [problem.handle for problem in found.problems] == [1]


def test_every_posterior_stays_finite_however_strange_the_hidden_states(session: EngineSession) -> None:
    session.open([declare(1)], {})
    rng = np.random.default_rng(1)
    for number in range(1, 60):
        hidden = (rng.standard_normal((1, DIM)) * 10.0 ** rng.integers(-8, 4)).astype(np.float16)
        age = number * int(rng.integers(1, 1000)) + number**3
        found = session.apply(step(number, decodes=Rows(np.array([1], dtype=np.uint64), np.array([age]), hidden)))
        for record in listed(found.records):
            assert np.isfinite(record.q).all()
            assert record.q.sum() == pytest.approx(1)
            assert np.isfinite([record.mean, record.median, record.p10, record.p90]).all()


def test_nothing_is_predicted_beyond_the_cap_that_a_request_carries(session: EngineSession) -> None:
    capped = replace(declare(1), max_tokens=20)
    session.open([capped, declare(2)], {})
    found = session.apply(step(1, decodes=rows(h1=4, h2=4))).predictions
    lengths = np.stack([found.mean, found.median, found.p10, found.p90])
    assert (lengths[:, found.handles == 1] <= 16).all()
    assert (found.initial[found.handles == 1] <= 20).all()
    assert found.mean[found.handles == 2] > 16, "where nothing is capped, the same states say more"
    at_the_cap = session.apply(step(2, decodes=rows(h1=20))).predictions
    assert (at_the_cap.mean <= 1).all(), "alive, so at most one token is still to come"


def test_a_request_that_is_named_twice_is_forgotten_once(session: EngineSession) -> None:
    session.open([declare(1), declare(2)], {})
    assert session.forget(["r1", "r1", "nobody"]) == ["r1"]
