"""Why the engine was in its own order: told of each step that followed no plan."""

from __future__ import annotations

from collections import Counter
from typing import Literal

Reason = Literal["scheduler_gone", "no_plan", "plan_expired", "not_read_yet"]
REASONS: dict[Reason, str] = {
    "scheduler_gone": "no stream to the scheduler is open",
    "no_plan": "the stream is open, and no plan came on it yet",
    "plan_expired": "the newest plan ran out: the scheduler sends no more, for it has nothing fresh to plan by",
    "not_read_yet": "the plan came while the step was being made",
}


class FailOpen:
    """Follows what lies on the board. Times are monotonic nanoseconds of this host."""

    def __init__(self) -> None:
        self.steps: Counter[Reason] = Counter(dict.fromkeys(REASONS, 0))
        self._open = False
        self._published_ns = self._expires_ns = self._expired_before_ns = 0

    def opened(self) -> None:
        """A stream to the scheduler is open."""
        self._open = True

    def published(self, now_ns: int, expires_ns: int) -> None:
        """A plan is put on the board."""
        self._expired_before_ns = self._expires_ns
        self._published_ns, self._expires_ns = now_ns, expires_ns

    def withdrawn(self) -> None:
        """The stream is gone, and the plan with it."""
        self._open = False
        self._published_ns = self._expires_ns = self._expired_before_ns = 0

    def stepped(self, at_ns: int) -> None:
        """A step with a batch, made then, followed no plan."""
        self.steps[self._reason(at_ns)] += 1

    def _reason(self, at_ns: int) -> Reason:
        if not self._open:
            return "scheduler_gone"
        # A step is read some time after it was made: the newest plan may have come in between.
        expires_ns = self._expires_ns if self._published_ns <= at_ns else self._expired_before_ns
        if not expires_ns:
            return "no_plan"
        return "plan_expired" if expires_ns <= at_ns else "not_read_yet"
