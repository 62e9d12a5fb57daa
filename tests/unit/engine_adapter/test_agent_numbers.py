from engine_adapter.agent.backoff import Backoff
from engine_adapter.agent.epochs import EpochMint, StepNumbers


def test_waits_double_up_to_the_longest_and_start_again_after_a_good_try() -> None:
    backoff = Backoff(0.1, 1.0)
    bounds = [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    for bound in bounds:
        assert bound / 2 <= backoff.next_s() <= bound
    backoff.reset()
    assert backoff.next_s() <= 0.1


def test_each_epoch_differs_from_all_before() -> None:
    mint = EpochMint()
    first, second = mint.next(), mint.next()
    assert first.incarnation == second.incarnation != 0
    assert first.counter < second.counter
    mint.renew()
    assert mint.next().incarnation != first.incarnation


def test_message_numbers_follow_the_engines_steps_and_always_rise() -> None:
    numbers = StepNumbers()
    assert [numbers.next(step) for step in (0, 0, 10, 10, 3, 20)] == [1, 2, 10, 11, 12, 20]
