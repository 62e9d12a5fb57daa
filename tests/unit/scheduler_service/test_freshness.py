"""For how long plans live."""

import pytest

from scheduler_service.choice import PolicyChoice
from scheduler_service.freshness import Freshness
from scheduler_service.messages import Applied
from scheduler_service.pairing import Evidence

PROGRESSED, ARRIVED, NOTHING = Applied(progressed=True), Applied(unpredicted_arrivals=True), Applied()


def test_a_plan_lives_its_whole_time_while_the_predictor_answers():
    freshness = Freshness()
    freshness.on_delta(PROGRESSED, 10.0)
    freshness.on_predictions()
    assert freshness.ttl_ms(Evidence.PROGRESS, 1000, 99.0) == 1000


def test_its_life_is_counted_from_the_first_progress_that_stayed_unanswered():
    freshness = Freshness()
    freshness.on_delta(PROGRESSED, 10.0)
    freshness.on_delta(PROGRESSED, 10.6)
    assert freshness.ttl_ms(Evidence.PROGRESS, 1000, 10.9) == 100
    assert freshness.ttl_ms(Evidence.PROGRESS, 1000, 11.0) <= 0


def test_an_engine_that_stands_still_asks_nothing():
    freshness = Freshness()
    freshness.on_delta(NOTHING, 10.0)
    assert freshness.ttl_ms(Evidence.PROGRESS, 1000, 99.0) == 1000


def test_prompt_only_waits_for_answers_to_arrivals_alone():
    freshness = Freshness()
    freshness.on_delta(PROGRESSED, 10.0)
    assert freshness.ttl_ms(Evidence.ARRIVALS, 1000, 99.0) == 1000
    freshness.on_delta(ARRIVED, 99.0)
    assert freshness.ttl_ms(Evidence.ARRIVALS, 1000, 99.4) == 600


@pytest.mark.parametrize(
    ("policy", "predictor", "evidence"),
    [
        ("fcfs", "per_step", Evidence.NONE),
        ("trail", "oracle", Evidence.NONE),
        ("sjf", "prompt_only", Evidence.ARRIVALS),
        ("trail", "per_step", Evidence.PROGRESS),
        ("srpt", "shuffled", Evidence.PROGRESS),
    ],
)
def test_who_needs_the_predictor(policy: str, predictor: str, evidence: Evidence):
    assert PolicyChoice(policy, predictor).evidence is evidence
    freshness = Freshness()
    freshness.on_delta(Applied(True, True), 0.0)
    assert (freshness.ttl_ms(evidence, 1000, 5.0) > 0) == (evidence is Evidence.NONE)
