import numpy as np
import pytest

from predictor_service.evaluation.breakdown import breakdown, measure, measure_prompt
from predictor_service.evaluation.predicted import Predicted, Requests

COUNT, POSITIONS = 60, 4
LENGTH = np.tile([8, 20, 300], COUNT // 3)
REQUEST = np.repeat(np.arange(COUNT), POSITIONS)
AGE = np.tile(np.arange(POSITIONS), COUNT) * (LENGTH[REQUEST] // POSITIONS)
TRUTH = (LENGTH[REQUEST] - AGE).astype(float)


def requests() -> Requests:
    verbs = np.array([f"verb{number % 20:02}" for number in range(COUNT)])
    verbs[:30] = "write"
    source = np.where(np.arange(COUNT) < 3, "small", "large")
    return Requests(np.arange(COUNT), source, verbs, LENGTH, np.ones(COUNT, dtype=bool))


def predicted(off: float = 0.0) -> Predicted:
    """Long by `off` tokens."""
    median = TRUTH + off
    return Predicted(REQUEST, AGE, TRUTH, median + 1, median, median - 1, median + 1)


def value(figures: dict[str, dict[str, float]], name: str) -> float:
    return figures[name]["value"]


def test_the_figures_are_of_the_median_and_those_of_the_mean_are_named_so() -> None:
    exact, off = measure(predicted(), np.arange(COUNT)), measure(predicted(5), np.arange(COUNT))
    assert (value(exact, "mae_tokens"), value(exact, "mae_of_mean_tokens"), value(exact, "coverage_80")) == (0, 1, 1)
    assert (value(off, "mae_tokens"), value(off, "mae_of_mean_tokens"), value(off, "coverage_80")) == (5, 6, 0)
    assert value(off, "median_ae_tokens") == 5
    for name in ("kendall_tau", "kendall_tau_of_mean", "kendall_tau_snapshot"):
        assert value(off, name) == pytest.approx(1)


def test_intervals_come_from_prompts() -> None:
    noisy = predicted()
    noisy = Predicted(REQUEST, AGE, TRUTH, *(np.where(REQUEST < 30, 0.0, TRUTH),) * 4)
    by_prompt = measure(noisy, np.arange(COUNT) // 30)["mae_tokens"]
    by_request = measure(noisy, np.arange(COUNT))["mae_tokens"]
    assert by_prompt["value"] == by_request["value"]
    assert by_prompt["low"] == 0 < by_request["low"]


def test_r0_is_judged_against_the_whole_length() -> None:
    found = measure_prompt(LENGTH * 2.0, requests())
    assert value(found, "mae_tokens") == pytest.approx(LENGTH.mean(), abs=1e-3)
    assert value(found, "kendall_tau") == pytest.approx(1)


def test_groups_are_named_ordered_and_measured_alone() -> None:
    found = breakdown(predicted(5), requests())
    assert [group.name for group in found["true length"]] == ["0-15", "16-31", "256-511"]
    assert [group.requests for group in found["true length"]] == [20, 20, 20]
    assert [group.name for group in found["age"]] == ["0-15", "64-127", "128-255"]
    assert [group.requests for group in found["age"]] == [60, 20, 20]
    assert [group.name for group in found["source"]] == ["large"]  # 3 requests say nothing
    assert found["verb"][0].name == "write"
    assert "other" in [group.name for group in found["verb"]]
    assert len(found["verb"]) <= 13
    assert all(value(group.figures, "mae_tokens") == 5 for groups in found.values() for group in groups)


def test_a_group_has_the_levels_of_its_own_rows() -> None:
    level_of = np.where(LENGTH[REQUEST] == 300, 0.0, np.linspace(0, 1, len(REQUEST)))
    found = {group.name: group.figures for group in breakdown(predicted(), requests(), level_of)["true length"]}
    assert value(found["256-511"], "ece") == pytest.approx(0.5)
    assert value(found["0-15"], "ece") < 0.1


def test_weighed_by_steps_long_requests_decide_the_calibration_error() -> None:
    # All right but for the requests of 300 tokens, of which a third of the requests are, but most of the steps.
    level_of = np.where(LENGTH[REQUEST] == 300, 0.0, np.linspace(0, 1, len(REQUEST)))
    found = measure(predicted(), np.arange(COUNT), level_of)
    steps = LENGTH[LENGTH == 300].sum() / LENGTH.sum()
    assert value(found, "ece") == pytest.approx(0.5 / 3, abs=0.03)
    assert value(found, "ece_of_steps") == pytest.approx(0.5 * steps, abs=0.03)
