"""What sends an experiment back to control, and what does not."""

import pytest

from scheduler_service.experiments.analysis.effects import deciding_effects
from scheduler_service.experiments.design import Guardrails
from scheduler_service.experiments.guardrails import at_least, of_blocks, of_effect, of_waiting
from scheduler_service.experiments.tally import Tally
from scheduler_service.messages import Outcome
from tests.unit.experiments.designs import design
from tests.unit.experiments.test_statistics import blocks_of


def tally(slow: int, fast: int, errors: int = 0) -> Tally:
    found = Tally()
    for latency_s, reason, count in ((50.0, "stop", slow), (1.0, "stop", fast), (1.0, "error", errors)):
        for _ in range(count):
            found.add(Outcome(0, reason, 10, latency_s))
    return found


def test_the_tail_of_one_block_is_enough_but_not_a_few_requests():
    rails = Guardrails(p99_latency_s=10.0)
    breach = of_blocks(rails, [tally(0, 200), tally(10, 200)])
    assert breach is not None
    assert breach.guardrail == "p99_latency_s"
    assert of_blocks(rails, [tally(5, 20)]) is None
    assert of_blocks(rails, [tally(0, 300)]) is None
    assert of_blocks(Guardrails(), [tally(100, 0)]) is None


def test_errors_have_to_be_surely_too_many():
    rails = Guardrails(error_rate=0.05)
    assert of_blocks(rails, [tally(0, 1, 1)]) is None
    assert of_blocks(rails, [tally(0, 190, 20)]) is None
    breach = of_blocks(rails, [tally(0, 400, 60)])
    assert breach is not None
    assert "60 of 460" in breach.says
    assert at_least(60, 460) == pytest.approx(0.078, abs=0.003)


def test_waiting_is_limited():
    assert of_waiting(Guardrails(waiting_s=5.0), 5.1) is not None
    assert of_waiting(Guardrails(waiting_s=5.0), 4.9) is None
    assert of_waiting(Guardrails(), 1e9) is None


def test_being_worse_has_to_be_shown_and_by_more_than_the_limit():
    made = design(groups=40)
    (worse,) = deciding_effects(made, blocks_of(made, 9, effect=0.4))
    assert of_effect(Guardrails(worse=0.2), worse) is not None
    assert of_effect(Guardrails(worse=0.6), worse) is None
    (better,) = deciding_effects(made, blocks_of(made, 9, effect=-0.4))
    assert of_effect(Guardrails(worse=0.2), better) is None
