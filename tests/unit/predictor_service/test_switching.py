from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from predictor_service.artefact import Artefact, load
from predictor_service.bins import Bins
from predictor_service.prompt import Prompt
from predictor_service.session import EngineSession
from predictor_service.step import Declaration, Rows, Stage, Step
from predictor_service.switching import rebinned, switched
from tests import artefacts
from tests.unit.predictor_service.records import listed

EDGES = [0, 3, 9, 20, 40, 80, 160, 320, 640, 1280]
NO_ROWS = Rows(np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64), np.zeros((0, 16), dtype=np.float16))


@pytest.fixture
def old(tmp_path: Path) -> Artefact:
    return load(artefacts.make(tmp_path / "old", name="m", seed=1))


@pytest.fixture
def new(tmp_path: Path) -> Artefact:
    """As many bins as the old one, but others."""
    folder = artefacts.make(tmp_path / "new", name="m", seed=2)
    middles = [(low + high) / 2 for low, high in zip(EDGES, [*EDGES[1:], 2000], strict=True)]
    artefacts.edit(folder, edges=EDGES, representatives=middles)
    return load(folder)


def rows(handles: list[int], ages: list[int], seed: int = 0) -> Rows:
    hidden = np.random.default_rng(seed).standard_normal((len(handles), 16)).astype(np.float16)
    return Rows(np.array(handles, dtype=np.uint64), np.array(ages), hidden)


def session_of(artefact: Artefact) -> EngineSession:
    """Request 1 has only its prompt, 2 is prefilled, 3 decodes and has a cap, 4 was predicted from outside."""
    session = EngineSession(artefact, max_requests=10)
    prompt = Prompt(np.array([1, 2, 3], dtype=np.uint32), 3)
    declared = [Declaration(handle, f"r{handle}", prompt, 0, 50 * (handle == 3)) for handle in (1, 2, 3, 4)]
    session.open(declared, {})
    session.apply(Step(1, (), rows([2, 3], [0, 0]), NO_ROWS, np.zeros(0, dtype=np.uint64)))
    session.put("r4", 70.0, 5.0)
    session.apply(Step(2, (), NO_ROWS, rows([3], [5]), np.zeros(0, dtype=np.uint64)))
    return session


def test_every_request_keeps_its_stage_age_r0_r1_and_cap(old: Artefact, new: Artefact) -> None:
    before = session_of(old)
    after = switched(before, new, max_requests=10)
    assert after.artefact is new
    assert after.requests.ids == before.requests.ids
    for request_id in before.requests.ids:
        a, b = before.requests.slot_of_id(request_id), after.requests.slot_of_id(request_id)
        assert b == after.requests.slot(int(before.requests.handle[a]))
        for name in ("age", "stage", "r0", "r1", "cap"):
            assert getattr(after.requests, name)[b] == getattr(before.requests, name)[a], name
    stages = [int(after.requests.stage[after.requests.slot_of_id(f"r{handle}")]) for handle in (1, 2, 3, 4)]
    assert stages == [Stage.PROMPT, Stage.PREFILL, Stage.DECODE, Stage.EXTERNAL]


def test_where_bins_agree_the_posterior_is_the_same(old: Artefact, tmp_path: Path) -> None:
    same_bins = load(artefacts.make(tmp_path / "same", name="other", seed=3))
    before = session_of(old)
    after = switched(before, same_bins, max_requests=10)
    for request_id in before.requests.ids:
        a, b = before.requests.slot_of_id(request_id), after.requests.slot_of_id(request_id)
        np.testing.assert_allclose(after.requests.q[b], before.requests.q[a])
        assert after.requests.median[b] == pytest.approx(before.requests.median[a])


def test_the_first_row_after_the_switch_updates_the_carried_posterior_by_the_new_artefact(
    old: Artefact, new: Artefact
) -> None:
    before = session_of(old)
    slot = before.requests.slot_of_id("r3")
    carried = rebinned(before.requests.q[[slot]], old.bins, new.bins)
    row = rows([3], [6], seed=9)
    after = switched(before, new, max_requests=10)
    found = after.apply(Step(3, (), NO_ROWS, row, np.zeros(0, dtype=np.uint64)))
    p = new.classifier(row.hidden, np.array([6]))
    expected = new.evidence.update(new.transition.advance(carried, np.array([1])), p)
    np.testing.assert_allclose(listed(found.records)[0].q, expected[0], rtol=1e-6)
    assert listed(found.records)[0].r1 == before.requests.r1[slot]


def test_rebinning_keeps_the_probability_below_every_new_edge() -> None:
    old = Bins(np.array(artefacts.EDGES, dtype=float), np.array(artefacts.REPRESENTATIVES, dtype=float))
    new = Bins(np.array(EDGES, dtype=float), np.array([1, 5, 15, 30, 60, 120, 240, 480, 900, 2000], dtype=float))
    q = np.random.default_rng(0).dirichlet(np.ones(10), size=50)
    there = rebinned(q, old, new)
    np.testing.assert_allclose(there.sum(axis=1), 1.0)
    assert (there >= 0).all()
    for index, edge in enumerate(EDGES[1:], start=1):
        np.testing.assert_allclose(there[:, :index].sum(axis=1), old.probability_at_most(q, edge))
    one_width = replace(old, edges=old.edges.copy())
    assert rebinned(q, old, one_width) is q
