"""What an exchange saves, against places handed over one by one."""

import heapq
from collections.abc import Sequence

import numpy as np
import pytest

from scheduler_service.exchange import beginnings, saved_s

SERVICE = 60.0


def handed_over(left: Sequence[float], count: int, service: float) -> list[float]:
    """When each of ``count`` requests begins: the next place that comes free is its own."""
    free, begun = list(left), []
    heapq.heapify(free)
    for _ in range(count):
        begun.append(heapq.heappop(free))
        heapq.heappush(free, begun[-1] + service)
    return begun


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_with_one_place_the_shorter_one_goes_first(ahead: int):
    assert saved_s(400.0, np.zeros(0), ahead, SERVICE) == pytest.approx(ahead * (400.0 - SERVICE))


def test_the_first_place_that_comes_free_is_the_first_ones():
    assert beginnings(np.array([30.0, 400.0]), 3, SERVICE).tolist() == [30.0, 90.0, 150.0]
    assert beginnings(np.array([0.0, 400.0]), 9, SERVICE)[7:].tolist() == [400.0, 410.0]


@pytest.mark.parametrize(("places", "ahead"), [(2, 3), (4, 20), (16, 8), (16, 60), (64, 20), (64, 64), (64, 200)])
@pytest.mark.parametrize("victim", [100.0, 400.0, 2000.0])
def test_what_is_saved_is_nearly_as_if_places_were_handed_over_one_by_one(places: int, ahead: int, victim: float):
    others = np.sort(np.random.default_rng(places).exponential(100, places - 1))
    with_it = handed_over([*others.tolist(), victim], ahead, SERVICE)
    without = handed_over([*others.tolist(), 0.0], ahead + 1, SERVICE)
    found = saved_s(victim, others, ahead, SERVICE)
    assert found == pytest.approx(sum(with_it) - sum(without), abs=ahead * SERVICE / places)


@pytest.mark.parametrize("places", [2, 8, 32])
def test_with_many_places_next_to_nothing_is_saved_while_few_wait(places: int):
    others = np.arange(1, places) * SERVICE / (places - 1)
    assert saved_s(1e6, others, places - 1, SERVICE) < SERVICE
    assert saved_s(1e6, others, 4 * places, SERVICE) > 6 * SERVICE
