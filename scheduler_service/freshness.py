"""For how long a plan may be used: it lives from the freshest evidence that it rests on."""

from __future__ import annotations

from scheduler_service.messages import Applied
from scheduler_service.pairing import Evidence


class Freshness:
    """Since when the predictor has left something unanswered. Times are seconds of one monotonic clock.

    A predictor that died must not steer the engine: at most one plan time-to-live after the first progress
    (or arrival) that it did not answer, the last plan has expired and no new one is made.
    """

    def __init__(self) -> None:
        self._progress_since: float | None = None
        self._arrival_since: float | None = None

    def on_delta(self, applied: Applied, now_s: float) -> None:
        """The engine reported: running requests progressed, or new ones came without a prediction."""
        if applied.progressed and self._progress_since is None:
            self._progress_since = now_s
        if applied.unpredicted_arrivals and self._arrival_since is None:
            self._arrival_since = now_s

    def on_predictions(self) -> None:
        """The predictor answered."""
        self._progress_since = self._arrival_since = None

    def owes(self, evidence: Evidence) -> bool:
        """Whether the predictor has yet to answer something that matters to plans by this evidence."""
        return self._since(evidence) is not None

    def ttl_ms(self, evidence: Evidence, plan_ttl_ms: int, now_s: float) -> int:
        """Milliseconds that a plan made now may live; 0 or less: make none."""
        since = self._since(evidence)
        return plan_ttl_ms if since is None else plan_ttl_ms - round((now_s - since) * 1000)

    def _since(self, evidence: Evidence) -> float | None:
        return {
            Evidence.NONE: None,
            Evidence.ARRIVALS: self._arrival_since,
            Evidence.PROGRESS: self._progress_since,
        }[evidence]
