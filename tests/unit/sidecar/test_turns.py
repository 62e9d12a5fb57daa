from sidecar.errors import LONGEST_PUSHBACK_S
from sidecar.turns import Turns


def test_each_of_a_crowd_is_told_its_own_moment() -> None:
    turns = Turns()
    told = [turns.next_ms(100.0) for _ in range(1000)]
    assert told[:3] == [1000, 1040, 1080]
    assert told[-1] == 1000 + 40 * 999


def test_who_comes_alone_waits_a_second_whatever_was_before() -> None:
    turns = Turns()
    for _ in range(1000):
        turns.next_ms(100.0)
    assert turns.next_ms(150.0) == 1000


def test_nobody_is_told_to_wait_longer_than_agents_do() -> None:
    turns = Turns()
    longest_ms = LONGEST_PUSHBACK_S * 1000
    assert max(turns.next_ms(100.0) for _ in range(10_000)) == longest_ms
