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


def between_decodes(pace: Pace, *steps: tuple[float, int], decode_s: float = 0.1) -> None:
    """Each of these steps (seconds, prefill tokens) after two steps without prefill and before one."""
    for duration_s, tokens in steps:
        for step in ((decode_s, 0), (decode_s, 0), (duration_s, tokens), (decode_s, 0)):
            pace.observe(*step)
    pace.observe(decode_s, 0)


def test_overhead_is_never_below_nothing_by_rounding() -> None:
    for tokens in range(16, 4000):
        pace = Pace(0.02, 4000.0)
        between_decodes(
            pace, (0.02 + tokens * 0.1 / 3, tokens), (0.02 + (tokens + 1) * 0.1 / 3, tokens + 1), decode_s=0.02
        )
        assert pace.prefill_step_s >= 0


def test_what_was_assumed_holds_until_it_is_measured():
    pace = Pace(0.02, 4000.0)
    assert (pace.step_duration_s, pace.prefill_tokens_per_s) == (0.02, 4000.0)
    for _ in range(3):
        pace.observe(5.0, 800)
    assert (pace.step_duration_s, pace.prefill_tokens_per_s) == (0.02, 4000.0)
    pace.observe(0.1, 0)
    pace.observe(0.2, 0)
    assert pace.step_duration_s == 0.1


def test_prefill_is_what_a_step_takes_beyond_a_decode_step():
    pace = Pace(0.02, 4000.0)
    between_decodes(pace, (0.6, 1000))
    assert pace.prefill_tokens_per_s == pytest.approx(2000.0)
    between_decodes(pace, (0.1, 15))
    assert pace.prefill_tokens_per_s == pytest.approx(2000.0)


def test_a_short_noisy_step_does_not_make_prefill_free():
    pace = Pace(0.02, 4000.0)
    between_decodes(pace, (0.05, 1000))
    assert pace.prefill_tokens_per_s == pytest.approx(1000 / (0.1 * 0.1))


def test_what_any_prefill_costs_is_told_from_what_each_token_does():
    pace, rng = Pace(0.02, 4000.0), np.random.default_rng(0)
    between_decodes(pace, *((0.1 + 0.3 + n / 1000, n) for n in (rng.exponential(100, 200).astype(int) + 16).tolist()))
    assert pace.prefill_tokens_per_s == pytest.approx(1000.0, rel=0.1)
    assert pace.prefill_step_s == pytest.approx(0.3, rel=0.1)


def test_where_all_steps_prefill_as_much_it_is_due_to_the_tokens():
    pace = Pace(0.02, 4000.0)
    between_decodes(pace, *[(0.6, 1000)] * 50)
    assert (pace.prefill_tokens_per_s, pace.prefill_step_s) == (pytest.approx(2000.0), pytest.approx(0.0, abs=1e-9))


def test_an_old_pace_is_forgotten():
    pace = Pace(0.02, 4000.0)
    between_decodes(pace, *[(1.1, 1000)] * 300)
    between_decodes(pace, *[(0.7, 1000)] * 300, decode_s=0.2)
    assert pace.step_duration_s == pytest.approx(0.2, rel=0.01)
    assert pace.prefill_tokens_per_s == pytest.approx(2000.0, rel=0.01)


def test_no_prefill_is_faster_than_the_token_budget_lets_it_be():
    pace = Pace(0.02, 4000.0, step_token_budget=512)
    assert pace.prefill_tokens_per_s == 4000.0
    between_decodes(pace, (0.1, 512))
    assert pace.prefill_tokens_per_s == pytest.approx(512 / 0.1)
    between_decodes(pace, *[(1.1, 500)] * 5)
    assert pace.prefill_tokens_per_s < 1200


DECODE_S, ANY_S, TOKEN_S = 0.004, 0.005, 5e-5


def reported(prefill: np.ndarray, *, ahead: int, noise: float = 0.1, pace: Pace | None = None) -> Pace:
    """Steps with so much prefill each, told ``ahead`` steps too early."""
    pace = pace or Pace(0.02, 4000.0)
    seconds = DECODE_S + (prefill > 0) * ANY_S + prefill * TOKEN_S
    seconds *= np.random.default_rng(0).uniform(1 - noise, 1 + noise, seconds.size)
    for told, tokens in zip(np.roll(seconds, -ahead).tolist(), prefill.tolist(), strict=True):
        pace.observe(told, tokens)
    return pace


def prefill_in(share: float, steps: int = 4000) -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.where(rng.random(steps) < share, rng.integers(16, 200, steps), 0)


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.8])
def test_a_time_may_be_of_the_step_or_of_the_next(share: float, ahead: int) -> None:
    pace = reported(prefill_in(share), ahead=ahead)
    assert pace.step_duration_s == pytest.approx(DECODE_S, rel=0.15)
    assert pace.prefill_step_s == pytest.approx(ANY_S, rel=0.25)
    assert 1 / pace.prefill_tokens_per_s == pytest.approx(TOKEN_S, rel=0.25)


def test_what_was_launched_late_and_is_done_the_sooner_cost_nothing() -> None:
    pace = Pace(0.02, 4000.0)
    for _ in range(100):
        for told, tokens in ((0.008, 0), (0.008, 0), (0.013, 0), (0.004, 40), (0.008, 0)):
            pace.observe(told, tokens)
    assert pace.prefill_step_s + 40 / pace.prefill_tokens_per_s == pytest.approx(0.001, rel=0.1)


def test_a_prompt_in_chunks_tells_the_overhead_by_its_last() -> None:
    pace = reported(np.tile([2048, 2048, 904, *[0] * 9], 300), ahead=0, noise=0.0)
    assert pace.prefill_step_s == pytest.approx(ANY_S, rel=0.3)
    assert 1 / pace.prefill_tokens_per_s == pytest.approx(TOKEN_S, rel=0.05)


def test_every_other_step_without_prefill_is_enough() -> None:
    prefill = prefill_in(1.0)
    prefill[::2] = 0
    pace = reported(prefill, ahead=0)
    assert pace.step_duration_s == pytest.approx(DECODE_S, rel=0.1)
    assert pace.prefill_step_s == pytest.approx(ANY_S, rel=0.25)


def test_an_engine_that_is_never_without_prefill_is_measured_all_the_same() -> None:
    pace = reported(prefill_in(1.0), ahead=0, pace=reported(np.zeros(3, np.int64), ahead=0))
    assert pace.prefill_step_s == pytest.approx(ANY_S, rel=0.25)


@pytest.mark.parametrize("ahead", [0, 1])
def test_steps_of_which_nobody_knows_what_they_computed_are_left_out(ahead: int) -> None:
    pace = Pace(0.02, 4000.0)
    prefill = prefill_in(0.3)
    seconds = np.roll(DECODE_S + (prefill > 0) * ANY_S + prefill * TOKEN_S, -ahead)
    for number, (told, tokens) in enumerate(zip(seconds.tolist(), prefill.tolist(), strict=True)):
        pace.observe(told, None if number % 9 == 0 else tokens)
    assert pace.step_duration_s == pytest.approx(DECODE_S, rel=0.05)
    assert pace.prefill_step_s == pytest.approx(ANY_S, rel=0.15)


@pytest.mark.parametrize("paused", [0, 100])
def test_a_pause_is_soon_forgotten(paused: int) -> None:
    pace = reported(prefill_in(0.3), ahead=0)
    for step in ((0.004, 0), (2.0, paused), (0.014, 100), (0.004, 0)):
        pace.observe(*step)
    reported(prefill_in(0.3, 1000), ahead=0, pace=pace)
    assert pace.step_duration_s == pytest.approx(DECODE_S, rel=0.15)
    assert pace.prefill_step_s == pytest.approx(ANY_S, rel=0.3)


def test_an_engine_that_becomes_a_hundred_times_as_slow_is_believed() -> None:
    pace = reported(prefill_in(0.3), ahead=0)
    for _ in range(200):
        pace.observe(0.4, 0)
    assert pace.step_duration_s == pytest.approx(0.4, rel=0.01)
