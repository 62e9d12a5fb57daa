"""The step-time model and its fit."""

import json
from pathlib import Path

import numpy as np
import pytest

from engine_adapter.simulated.step_fit import fit_step_time, read_steps
from engine_adapter.simulated.step_time import StepTime, load_step_time

TRUE = StepTime(0.006, 25e-6, 40e-6, 5e-8)


def steps(noise: float, count: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    batch = rng.integers(1, 257, count).astype(float)
    prefill = rng.choice([0.0, 500.0, 2000.0], count)
    kv = batch * rng.integers(50, 2000, count)
    return batch, prefill, kv, TRUE.of(batch, prefill, kv) * np.exp(noise * rng.standard_normal(count))


def test_a_fit_finds_the_coefficients_that_made_the_steps() -> None:
    fit = fit_step_time(*steps(0.0))
    assert fit.step_time.a_s == pytest.approx(TRUE.a_s)
    assert fit.step_time.d_s == pytest.approx(TRUE.d_s)
    assert fit.r_squared == pytest.approx(1.0)
    assert fit.median_relative_error == pytest.approx(0.0, abs=1e-9)


def test_a_fit_of_noisy_steps_tells_how_noisy_they_are() -> None:
    fit = fit_step_time(*steps(0.05))
    assert fit.step_time.c_s == pytest.approx(TRUE.c_s, rel=0.05)
    assert 0.02 < fit.median_relative_error < 0.05
    assert 0.9 < fit.r_squared < 1


def test_no_coefficient_is_negative_even_where_that_would_fit_better() -> None:
    batch, prefill, kv, _ = steps(0.0)
    fit = fit_step_time(batch, prefill, kv, 0.1 - 1e-4 * batch)
    assert min(fit.step_time.b_s, fit.step_time.c_s, fit.step_time.d_s) == 0


def test_a_pause_counts_for_nothing() -> None:
    batch, prefill, kv, duration_s = steps(0.0)
    duration_s[::50] += 2.0
    fit = fit_step_time(batch, prefill, kv, duration_s)
    assert fit.step_time.a_s == pytest.approx(TRUE.a_s)
    assert (fit.steps, fit.left_out) == (392, 8)


def test_what_the_benchmark_of_a_real_engine_wrote_is_read(tmp_path: Path) -> None:
    written = {
        "columns": {"steps": ["batch", "prefill_tokens", "kv_tokens", "duration_s", "start_s"]},
        "runs": [{"steps": [[1, 2, 3, 0.4, 0.0]]}, {"steps": [[5, 6, 7, 0.8, 1.0]]}],
    }
    (tmp_path / "steps.json").write_text(json.dumps(written))
    assert np.array(read_steps(tmp_path / "steps.json")).T.tolist() == [[1, 2, 3, 0.4], [5, 6, 7, 0.8]]


def test_steps_are_read_from_csv_and_json(tmp_path: Path) -> None:
    rows = [{"batch": 2, "prefill_tokens": 0, "kv_tokens": 30, "duration_s": 0.01}] * 2
    (tmp_path / "steps.json").write_text(json.dumps(rows))
    (tmp_path / "steps.csv").write_text("duration_s,batch,prefill_tokens,kv_tokens\n0.01,2,0,30\n0.01,2,0,30\n")
    for one, other in zip(read_steps(tmp_path / "steps.json"), read_steps(tmp_path / "steps.csv"), strict=True):
        assert one.tolist() == other.tolist()


def test_a_bad_step_is_told_by_row_and_field(tmp_path: Path) -> None:
    path = tmp_path / "steps.csv"
    path.write_text("batch,prefill_tokens,kv_tokens,duration_s\n1,0,0,0.1\n1,0,x,0.1\n")
    with pytest.raises(ValueError, match=r"row 2: kv_tokens: 'x'"):
        read_steps(path)


@pytest.mark.parametrize(
    "given", ['{"a_s": 0.1, "b_s": 0, "c_s": 0}', '{"a_s": -1, "b_s": 0, "c_s": 0, "d_s": 0}', "["]
)
def test_a_file_without_the_four_coefficients_is_refused(tmp_path: Path, given: str) -> None:
    path = tmp_path / "step.json"
    path.write_text(given)
    with pytest.raises(ValueError, match=r"step\.json"):
        load_step_time(path)
