"""What a refused client is told."""

import pytest

from sidecar.errors import LONGEST_PUSHBACK_S, PUSHBACK_KEY, pushback_s


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("1500", 1.5), (b"250", 0.25), ("-1", 0.0), ("soon", 0.0), ("", 0.0), ("9" * 40, LONGEST_PUSHBACK_S)],
)
def test_a_service_says_when_to_come_again(value: str | bytes, seconds: float) -> None:
    assert pushback_s([("other", "7"), (PUSHBACK_KEY, value)]) == seconds


def test_a_service_that_says_nothing_asks_for_nothing() -> None:
    assert pushback_s([]) == 0.0
