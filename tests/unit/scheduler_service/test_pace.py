"""How fast an engine is, and how often that is told."""

import numpy as np
import pytest

from scheduler_service.pace import Pace, Steady


def told_of(*measured: float) -> list[float]:
    steady = Steady()
    return [steady.told(value) for value in measured]


def test_a_figure_is_told_anew_only_beyond_a_twentieth_either_way():
    assert told_of(100.0, 104.9, 95.1, 105.1, 100.0, 99.8) == [100.0, 100.0, 100.0, 105.1, 105.1, 99.8]


def test_small_moves_add_up_until_they_are_told():
    assert told_of(100.0, 102.0, 104.0, 106.0, 108.0) == [100.0, 100.0, 100.0, 106.0, 106.0]


def test_the_first_figure_is_told_and_so_is_the_way_back_to_nothing():
    assert told_of(1e-6, 0.0, 0.0, 1e-9) == [1e-6, 0.0, 0.0, 1e-9]


@pytest.mark.parametrize("duration_s", [5e-324, 1e-9, 1e6, 1e308])
def test_durations_that_no_step_can_have_tell_nothing(duration_s: float) -> None:
    pace = Pace(0.02, 4000.0, step_token_budget=8192)
    for tokens in (0, 100) * 3:
        pace.observe(duration_s, tokens)
    assert (pace.step_duration_s, pace.prefill_tokens_per_s) == (0.02, 4000.0)


def test_overhead_is_never_below_nothing_by_rounding() -> None:
    for tokens in range(16, 4000):
        pace = Pace(0.02, 4000.0)
        pace.observe(0.02, 0)
        pace.observe(0.02 + tokens * 0.1 / 3, tokens)
        pace.observe(0.02 + (tokens + 1) * 0.1 / 3, tokens + 1)
        assert pace.prefill_step_s >= 0


def test_what_was_assumed_holds_until_it_is_measured():
    pace = Pace(0.02, 4000.0)
    assert (pace.step_duration_s, pace.prefill_tokens_per_s) == (0.02, 4000.0)
    pace.observe(5.0, 800)
    assert (pace.step_duration_s, pace.prefill_tokens_per_s) == (0.02, 4000.0)
    pace.observe(0.1, 0)
    assert pace.step_duration_s == 0.1


def test_prefill_is_what_a_step_takes_beyond_a_decode_step():
    pace = Pace(0.02, 4000.0)
    pace.observe(0.1, 0)
    pace.observe(0.6, 1000)
    assert pace.prefill_tokens_per_s == pytest.approx(2000.0)
    pace.observe(0.1, 15)
    assert pace.prefill_tokens_per_s == pytest.approx(2000.0)


def test_a_short_noisy_step_does_not_make_prefill_free():
    pace = Pace(0.02, 4000.0)
    pace.observe(0.1, 0)
    pace.observe(0.05, 1000)
    assert pace.prefill_tokens_per_s == pytest.approx(1000 / 0.005)


def test_what_any_prefill_costs_is_told_from_what_each_token_does():
    pace, rng = Pace(0.02, 4000.0), np.random.default_rng(0)
    pace.observe(0.1, 0)
    for tokens in rng.exponential(100, 200).astype(int) + 16:
        pace.observe(0.1 + 0.3 + tokens / 1000, int(tokens))
    assert pace.prefill_tokens_per_s == pytest.approx(1000.0, rel=0.1)
    assert pace.prefill_step_s == pytest.approx(0.3, rel=0.1)


def test_where_all_steps_prefill_as_much_it_is_due_to_the_tokens():
    pace = Pace(0.02, 4000.0)
    pace.observe(0.1, 0)
    for _ in range(50):
        pace.observe(0.6, 1000)
    assert (pace.prefill_tokens_per_s, pace.prefill_step_s) == (pytest.approx(2000.0), pytest.approx(0.0, abs=1e-9))


def test_an_old_pace_is_forgotten():
    pace = Pace(0.02, 4000.0)
    for _ in range(300):
        pace.observe(0.1, 0)
        pace.observe(1.1, 1000)
    for _ in range(300):
        pace.observe(0.2, 0)
        pace.observe(0.7, 1000)
    assert pace.step_duration_s == pytest.approx(0.2, rel=0.01)
    assert pace.prefill_tokens_per_s == pytest.approx(2000.0, rel=0.01)


def test_no_prefill_is_faster_than_the_token_budget_lets_it_be():
    pace = Pace(0.02, 4000.0, step_token_budget=512)
    assert pace.prefill_tokens_per_s == 4000.0
    pace.observe(0.1, 0)
    pace.observe(0.1, 512)
    assert pace.prefill_tokens_per_s == pytest.approx(512 / 0.1)
    pace.observe(1.1, 500)
    assert pace.prefill_tokens_per_s < 1200
