"""The predictions of living requests, kept until their true lengths are known."""

from __future__ import annotations

from array import array
from collections.abc import Container
from dataclasses import dataclass, field

from engine_adapter.agent.counters import Counters

KEPT_PER_REQUEST = 512


@dataclass(slots=True)
class _Page:
    totals: array[float] = field(default_factory=lambda: array("f"))
    """Age + predicted remaining length, of every ``stride``-th prediction."""
    stride: int = 1
    skipped: int = 0


class PredictionBook:
    """handle -> what the error of its predictions needs.

    At most 512 predictions a request are kept, evenly spread: when they are full, every second one goes.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._pages: dict[int, _Page] = {}

    def __len__(self) -> int:
        return len(self._pages)

    def note(self, handle: int, age_tokens: int, mean: float) -> None:
        """A prediction of a living request: ``mean`` tokens still to come after ``age_tokens``."""
        page = self._pages.get(handle)
        if page is None:
            page = self._pages[handle] = _Page()
        page.skipped += 1
        if page.skipped < page.stride:
            return
        page.skipped = 0
        page.totals.append(age_tokens + mean)
        if len(page.totals) >= KEPT_PER_REQUEST:
            page.totals, page.stride = page.totals[::2], 2 * page.stride

    def finished(self, handle: int, output_tokens: int) -> None:
        """Closes a request's page. |predicted remaining - true remaining| = |predicted total - true total|."""
        page = self._pages.pop(handle, None)
        if page is None:
            return
        self._counters.finished_predictions += len(page.totals)
        self._counters.absolute_error_tokens_sum += sum(abs(total - output_tokens) for total in page.totals)

    def keep(self, living: Container[int]) -> None:
        """Drops the pages of requests that are gone without a word."""
        self._pages = {handle: page for handle, page in self._pages.items() if handle in living}

    def clear(self) -> None:
        self._pages.clear()
