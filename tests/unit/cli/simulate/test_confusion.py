"""A measured predictor's errors: written, read and drawn again."""

import json
from pathlib import Path

import numpy as np
import pytest

from sidecar.cli.simulate.confusion import FILE_NAME, Measured, as_json, load_confusion
from sidecar.cli.simulate.confusion_fit import Observed, fit_confusion
from sidecar.cli.simulate.errors import SimulateError
from sidecar.cli.simulate.persistence import fit_persistence
from sidecar.cli.simulate.predictions import Paths, persistent_scores, spread


def observed_of(paths: Paths, lengths: np.ndarray, every: int = 1) -> Observed:
    """What an evaluation would record of such predictions, at every so many-th age."""
    _, request, age = spread(lengths)
    rows = age % every == 0
    said = paths.remaining
    return Observed(
        request[rows], age[rows], (lengths[request] - age)[rows].astype(float), said.median[rows], said.p10[rows],
        said.p90[rows], paths.total.median,
    )  # fmt: skip


def observed(seed: int, requests: int = 1500) -> Observed:
    """A made-up predictor: too short for long requests, its error 0.6 wide and slow to change."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(np.rint(100 * np.exp(rng.standard_normal(requests))), 1, 1000).astype(np.int64)
    at_prompt, scores = persistent_scores(lengths, rng, 0.95, 0.5, 0.4)
    _, request, age = spread(lengths)
    true = (lengths[request] - age).astype(float)
    median = true**0.9 * np.exp(0.6 * scores)
    r0 = lengths**0.8 * np.exp(0.9 * at_prompt)
    return Observed(request, age, true, median, median / 3, median * 3, r0)


@pytest.fixture(scope="module")
def fitted() -> dict[str, object]:
    return as_json(fit_confusion(observed(0)))


def test_what_is_drawn_errs_as_what_was_observed(tmp_path: Path, fitted: dict[str, object]) -> None:
    (tmp_path / FILE_NAME).write_text(json.dumps(fitted))
    rng = np.random.default_rng(9)
    lengths = np.clip(np.rint(100 * np.exp(rng.standard_normal(1500))), 1, 1000).astype(np.int64)
    drawn = observed_of(Measured(load_confusion(tmp_path)).paths(lengths, rng), lengths)
    truth = observed(1)
    for low, high in ((5, 20), (50, 100), (200, 400)):
        widths, middles = [], []
        for said in (drawn, truth):
            rows = (said.remaining >= low) & (said.remaining < high) & (said.age < 100)
            ratio = np.log(np.maximum(said.median, 1)[rows] / said.remaining[rows])
            widths.append(ratio.std())
            middles.append(float(np.median(ratio)))
        assert widths[0] == pytest.approx(widths[1], rel=0.2)
        assert middles[0] == pytest.approx(middles[1], abs=0.15)


def test_errors_that_are_drawn_persist_as_those_observed(fitted: dict[str, object]) -> None:
    persistence = fitted["persistence"]
    assert isinstance(persistence, dict)
    assert persistence["share"] == pytest.approx(0.5, abs=0.1)
    assert persistence["lag1"] == pytest.approx(0.95, abs=0.02)
    assert persistence["with_prompt"] == pytest.approx(0.4, abs=0.1)


def test_sparse_positions_tell_the_same_persistence() -> None:
    lengths = np.full(2000, 200)
    _, scores = persistent_scores(lengths, np.random.default_rng(3), 0.97, 0.3, 0.0)
    _, request, age = spread(lengths)
    rows = np.flatnonzero(np.random.default_rng(4).random(len(age)) < 0.1)
    found = fit_persistence(request[rows], age[rows], scores[rows])
    gaps = np.array([5.0, 20.0, 100.0])
    assert found.correlation(gaps) == pytest.approx(0.3 + 0.7 * 0.97**gaps, abs=0.05)


def test_quantiles_never_cross(fitted: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(json.dumps(fitted))
    said = Measured(load_confusion(tmp_path)).paths(np.array([1, 5000, 30]), np.random.default_rng(0)).remaining
    assert (said.p10 <= said.median).all()
    assert (said.median <= said.p90).all()
    assert (said.median >= 1).all()


def test_a_few_rows_are_enough_to_make_something_of() -> None:
    one = np.ones(1)
    confusion = fit_confusion(Observed(np.zeros(1, int), np.zeros(1, int), one * 5, one * 4, one, one * 9, one * 6))
    assert np.exp(confusion.remaining["median"]).max() == pytest.approx(0.8)


@pytest.mark.parametrize("change", [{"format": 2}, {"levels": [0.5, 0.1]}, {"age_edges": [1]}, {"total": {}}])
def test_a_file_that_is_not_one_is_refused(
    tmp_path: Path, fitted: dict[str, object], change: dict[str, object]
) -> None:
    (tmp_path / FILE_NAME).write_text(json.dumps(fitted | change))
    with pytest.raises(SimulateError, match=FILE_NAME):
        load_confusion(tmp_path)


def test_an_artefact_without_one_is_told_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SimulateError, match=f"no {FILE_NAME} there"):
        load_confusion(tmp_path)
