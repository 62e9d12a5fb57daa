import numpy as np
import pytest

from predictor_service.training.collect import Responses
from predictor_service.training.noise import Positions, floor, prompt_floor


def _responses(lengths: list[int], prompts: list[int]) -> Responses:
    count = len(lengths)
    ones = np.ones(count, dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(np.array(lengths) + 2)])
    tokens = np.arange(offsets[-1], dtype=np.int32)
    return Responses(np.array(prompts), ones, ones, 2 * ones, np.ones(count, dtype=bool), tokens, offsets)


def test_prefixes_are_the_prompt_and_as_many_tokens_as_the_age_says() -> None:
    responses = _responses([5, 3], [0, 1])
    at = Positions(np.array([0, 1]), np.array([3, 0]))
    assert at.prefixes(responses) == [[0, 1, 2, 3, 4], [7, 8]]


def test_positions_are_distinct_steps_of_the_response_and_all_of_them_where_it_is_short() -> None:
    responses = _responses([50, 3], [0, 1])
    at = Positions.drawn(responses, np.array([0, 1]), 4, seed=0)
    assert at.response.tolist() == [0] * 4 + [1] * 3
    assert len(set(at.age[:4].tolist())) == 4
    assert at.age.max() < 50
    assert at.age[4:].tolist() == [0, 1, 2]


def test_draws_that_never_differ_leave_no_floor() -> None:
    told = floor(np.repeat([[10.0], [20.0], [30.0]], 4, axis=1), np.array([0, 1, 2]))
    assert (told["mae_tokens"], told["kendall_tau"]) == (0.0, 1.0)


def test_the_floor_is_the_distance_to_the_median_of_the_other_draws_and_requests_count_the_same() -> None:
    draws = np.array([[0.0, 3.0, 3.0, 3.0], [5.0, 5.0, 5.0, 5.0], [5.0, 5.0, 5.0, 5.0]])
    told = floor(draws, np.array([0, 1, 1]))
    assert told["mae_tokens"] == pytest.approx(3 / 4 / 2)


def test_a_prompts_other_answers_rank_its_answer_better_the_more_of_them_are_asked() -> None:
    rng = np.random.default_rng(0)
    true = rng.uniform(10, 200, 300)
    lengths = np.maximum(1, true[:, None] + rng.normal(0, 60, (300, 4))).astype(int)
    responses = _responses(lengths.ravel().tolist(), np.repeat(np.arange(300), 4).tolist())
    taus = prompt_floor(responses, np.arange(1200))["kendall_tau_by_others"]
    assert taus[1] < taus[2] < taus[3]
