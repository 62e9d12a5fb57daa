"""What all requests together save in waiting when a running request gives its place to those who wait."""

from __future__ import annotations

import numpy as np

from scheduler_service.view import Floats


def saved_s(victim: float, others: Floats, ahead: int, service: float) -> float:
    """Sum over requests of the time by which they end earlier; below 0: later.

    The victim has so much service left, and stands aside until the `ahead` requests that wait and rank before it have
    begun. Each begins with the next place that comes free, and the places of the `others` [k - 1], sorted by what is
    left of them, come free anyhow. So the victim's place is one among many: it lets each of those who wait begin a
    little earlier, while the victim waits for all of them. As a fluid, where those who wait take `service` each:

        saved = sum of their beginnings with the victim running - the same without it - when the victim goes on

    With one place that is `ahead` * (victim - service): shortest remaining first. With k places next to nothing is
    saved while fewer than k requests wait, however long the victim is: each gets a place soon anyhow.
    """
    with_it = beginnings(np.sort(np.append(others, victim)), ahead, service)
    without = beginnings(np.concatenate([[0.0], others]), ahead + 1, service)
    return float(with_it.sum() - without.sum())


def beginnings(left: Floats, count: int, service: float) -> Floats:
    """[count] when each of so many waiting requests begins, where places come free after `left` [k], sorted, and again
    after each `service` from then on: the i-th at the time t where

        sum over places with left <= t of (1 + (t - left) / service)  =  i
    """
    places = np.arange(1, left.size + 1)
    before = np.cumsum(left)
    begun = places + (places * left - before) / service
    """[k] how many have begun when a place has just come free."""
    turn = np.arange(1, count + 1)
    free = np.searchsorted(begun, turn, side="right")
    of_free = ((turn - free) * service + np.concatenate([[0.0], before])[free]) / np.maximum(free, 1)
    next_free = np.append(left, np.inf)[free]
    beginning: Floats = np.where(free > 0, np.minimum(of_free, next_free), next_free)
    return beginning
