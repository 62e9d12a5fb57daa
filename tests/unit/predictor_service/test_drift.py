"""Live figures: what is made of remembered predictions and outcomes, and when that counts as worse."""

from pathlib import Path

import numpy as np
import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from predictor_service.artefact import Artefact, load
from predictor_service.drift import Drift, Promised, complaints, promised_by
from predictor_service.journal import Notes, Prediction
from predictor_service.live import Estimate, Figures, Judged, Windows, figures, judge
from tests import artefacts

RNG = np.random.default_rng(0)
MODEL_METRICS = {"mae_tokens": {"value": 70.0, "low": 60.0}, "kendall_tau_snapshot": 0.6, "coverage_80": {"value": 0.8}}


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    folder = artefacts.make(tmp_path_factory.mktemp("tiny"), name="drifting")
    artefacts.edit(folder, metrics=MODEL_METRICS)
    return load(folder)


def test_a_request_is_judged_by_the_tokens_that_were_still_to_come(artefact: Artefact) -> None:
    notes = Notes("r", artefact, [Prediction(0, 90.0, 50.0, 100.0), Prediction(60, 50.0, 41.0, 60.0)])
    found = judge(notes, 100, RNG)
    assert found is not None
    assert (found.error_tokens, found.covered) == (10.0, 0.5)
    assert (found.predicted, found.truth) in ((90.0, 100.0), (50.0, 40.0))
    assert judge(Notes("r", artefact), 100, RNG) is None


def tau_b(a: list[float], b: list[float]) -> float:
    """By the book, pair by pair."""
    pairs = [(np.sign(a[i] - a[j]), np.sign(b[i] - b[j])) for i in range(len(a)) for j in range(i)]
    agreement = sum(x * y for x, y in pairs)
    return float(agreement / np.sqrt(sum(x * x for x, _ in pairs) * sum(y * y for _, y in pairs)))


def test_figures_weigh_each_request_alike_and_tau_is_tau_b() -> None:
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 20, 60).astype(float)
    predicted = np.round(truth + rng.normal(0, 8, 60))
    judged = [Judged(*row) for row in zip(rng.random(60) * 9, rng.random(60), predicted, truth, strict=True)]
    found = figures(judged, rng)
    assert found.mae_tokens.value == pytest.approx(np.mean([j.error_tokens for j in judged]))
    assert found.coverage.value == pytest.approx(np.mean([j.covered for j in judged]))
    assert found.kendall_tau.value == pytest.approx(tau_b(predicted.tolist(), truth.tolist()))
    for estimate in (found.mae_tokens, found.coverage, found.kendall_tau):
        assert estimate.low < estimate.value < estimate.high


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(200):
        judged = [Judged(error, 1.0, 0.0, 0.0) for error in rng.exponential(50.0, 150)]
        estimate = figures(judged, rng).mae_tokens
        held += estimate.low <= 50.0 <= estimate.high
    assert held / 200 == pytest.approx(0.95, abs=0.05)


def test_a_window_holds_the_newest_and_starts_anew_with_a_replaced_artefact(artefact: Artefact, tmp_path: Path) -> None:
    windows = Windows(3)
    for error in range(5):
        windows.add(artefact, Judged(float(error), 1.0, 0.0, 0.0))
    assert [judged.error_tokens for judged in windows.judged(artefact)] == [2.0, 3.0, 4.0]
    replaced = load(artefacts.make(tmp_path, name="drifting", seed=5))
    assert windows.judged(replaced) == ()


def live(mae: float = 70.0, tau: float = 0.6, coverage: float = 0.8, requests: int = 500) -> Figures:
    return Figures(
        requests,
        Estimate(mae, mae - 5, mae + 5),
        Estimate(tau, tau - 0.03, tau + 0.03),
        Estimate(coverage, coverage - 0.03, coverage + 0.03),
    )


@pytest.mark.parametrize(
    ("found", "complaint"),
    [
        (live(), ""),
        (live(mae=81), ""),
        (live(mae=83), "mae_tokens 83.0 instead of 70.0"),
        (live(mae=20, tau=0.9, coverage=0.9), ""),
        (live(tau=0.53), ""),
        (live(tau=0.51), "kendall_tau 0.51 instead of 0.60"),
        (live(coverage=0.71), "coverage 0.71 instead of 0.80"),
        (live(mae=500, requests=99), ""),
    ],
)
def test_only_what_is_worse_by_more_than_chance_and_by_much_is_a_complaint(found: Figures, complaint: str) -> None:
    assert ", ".join(complaints(found, promised_by(MODEL_METRICS))) == complaint


def test_an_artefact_that_says_nothing_of_its_test_is_never_worse() -> None:
    assert promised_by({"mae_tokens": "?", "coverage_80": {"low": 0.7}}) == Promised(None, None, None)
    assert complaints(live(mae=1e6), promised_by({})) == []


def sample(name: str) -> float | None:
    return REGISTRY.get_sample_value(name, {"model": "drifting"})


def test_drift_is_told_once_when_it_begins_and_once_when_it_ends(artefact: Artefact) -> None:
    windows = Windows(100)
    drift = Drift(windows, seed=0)
    with capture_logs() as logs:
        for error in (70.0, 700.0, 70.0):
            for number in range(100):
                windows.add(artefact, Judged(error + number % 5, 0.8, float(number), float(number)))
            drift.report()
            drift.report()
    assert [(line["log_level"], line["event"]) for line in logs] == [
        ("warning", "live figures are worse than tested"),
        ("info", "live figures are as tested again"),
    ]
    assert logs[0]["worse"] == ["mae_tokens 702.0 instead of 70.0"]
    assert sample("trail_predictor_live_mae_tokens") == pytest.approx(72.0)
    assert sample("trail_predictor_live_kendall_tau") == 1.0
    assert sample("trail_predictor_live_coverage") == pytest.approx(0.8)
    assert sample("trail_predictor_test_mae_tokens") == 70.0
    assert sample("trail_predictor_live_requests") == 100
