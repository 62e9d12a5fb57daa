"""Which predictions are remembered until a request's outcome is known."""

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from predictor_service import journal as journals
from predictor_service.artefact import Artefact, load
from predictor_service.journal import Answered, Journal
from predictor_service.step import Stage
from tests import artefacts


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    return load(artefacts.make(tmp_path_factory.mktemp("tiny")))


def answered(stage: Stage = Stage.DECODE, **ages: int) -> Answered:
    """Of handle 1 at age 4: answered(h1=4); the median says the age, so that it shows which one it was."""
    handles, stages = [int(name[1:]) for name in ages], [int(stage)] * len(ages)
    lengths = [float(age) for age in ages.values()]
    return Answered(handles, list(ages.values()), stages, lengths, lengths, lengths)


def opened(artefact: Artefact, *handles: int) -> Journal:
    journal = Journal(most_engines=2, seed=0)
    journal.opened("e", artefact, [(handle, f"r{handle}") for handle in handles])
    return journal


def test_remembered_predictions_are_few_and_uniform_over_a_request_s_ages(artefact: Artefact) -> None:
    seen: Counter[int] = Counter()
    journal = opened(artefact)
    for handle in range(1, 1001):
        journal.stepped("e", artefact, [(handle, f"r{handle}")], answered(), [])
        for age in range(40):
            journal.stepped("e", artefact, [], answered(**{f"h{handle}": age}), [])
        notes = journal.take("e", handle, f"r{handle}")
        assert notes is not None
        ages = [prediction.age_tokens for prediction in notes.predictions]
        assert len(set(ages)) == journals.PREDICTIONS_A_REQUEST
        seen.update(ages)
    # 100 a quarter of the ages is expected ten times over: chi-squared with 39 degrees of freedom, 99.9 %.
    expected = 1000 * journals.PREDICTIONS_A_REQUEST / 40
    assert sum((seen[age] - expected) ** 2 / expected for age in range(40)) < 72.1


def test_predictions_without_a_hidden_state_are_left_out(artefact: Artefact) -> None:
    journal = opened(artefact, 1)
    for stage in (Stage.PROMPT, Stage.EXTERNAL):
        journal.stepped("e", artefact, [], answered(stage, h1=0), [])
    journal.stepped("e", artefact, [], answered(Stage.PREFILL, h1=0), [])
    notes = journal.take("e", 1, "r1")
    assert notes is not None
    assert len(notes.predictions) == 1


def test_a_request_is_found_after_it_ended_and_before_and_only_once(artefact: Artefact) -> None:
    journal = opened(artefact, 1, 2)
    journal.stepped("e", artefact, [], answered(h1=3, h2=3), [1])
    assert journal.take("e", 2, "another") is None
    for handle in (1, 2):
        assert journal.take("e", handle, f"r{handle}") is not None
        assert journal.take("e", handle, f"r{handle}") is None
    assert journal.engines == []
    assert journal.take("unknown", 1, "r1") is None


def test_a_handle_that_is_used_again_does_not_mix_two_requests(artefact: Artefact) -> None:
    journal = opened(artefact, 1)
    journal.stepped("e", artefact, [], answered(h1=3), [])
    journal.stepped("e", artefact, [(1, "next")], answered(h1=7), [])
    first, second = journal.take("e", 1, "r1"), journal.take("e", 1, "next")
    assert first is not None
    assert second is not None
    assert [[p.age_tokens for p in notes.predictions] for notes in (first, second)] == [[3], [7]]


def test_after_a_switch_only_the_new_artefact_s_predictions_count(artefact: Artefact, tmp_path: Path) -> None:
    newer = load(artefacts.make(tmp_path, name="newer"))
    journal = opened(artefact, 1)
    journal.stepped("e", artefact, [], answered(h1=3), [])
    journal.stepped("e", newer, [], answered(h1=7), [])
    notes = journal.take("e", 1, "r1")
    assert notes is not None
    assert (notes.artefact, [p.age_tokens for p in notes.predictions]) == (newer, [7])


def test_memory_is_bounded_whatever_engines_and_requests_do(
    artefact: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "MAX_LIVING", 5)
    monkeypatch.setattr(journals, "MAX_ENDED", 3)
    journal = opened(artefact, *range(1, 9))
    assert [journal.take("e", handle, f"r{handle}") is None for handle in (5, 6)] == [False, True]
    journal = opened(artefact, *range(1, 6))
    journal.stepped("e", artefact, [], answered(), range(1, 6))
    assert [journal.take("e", handle, f"r{handle}") is None for handle in range(1, 6)] == [True] * 2 + [False] * 3
    journal = opened(artefact, 1)
    for engine_id in ("f", "g"):
        journal.opened(engine_id, artefact, [(1, "r1")])
    assert journal.engines == ["f", "g"]


def test_a_request_that_is_not_named_at_an_open_has_ended(artefact: Artefact) -> None:
    journal = opened(artefact, 1, 2)
    journal.stepped("e", artefact, [], answered(h1=3, h2=3), [])
    journal.opened("e", artefact, [(2, "r2")])
    journal.stepped("e", artefact, [], answered(h1=4, h2=4), [])
    kept = [journal.take("e", handle, f"r{handle}") for handle in (1, 2)]
    assert [len(notes.predictions) for notes in kept if notes is not None] == [1, 2]


def test_noting_a_step_of_256_requests_costs_little(artefact: Artefact) -> None:
    journal = opened(artefact, *range(256))
    took = []
    for age in range(60):
        columns = answered(**{f"h{handle}": age for handle in range(256)})
        begun = time.perf_counter()
        journal.stepped("e", artefact, [], columns, [])
        took.append(time.perf_counter() - begun)
    assert np.median(took[20:]) < 1e-3
