"""What the processes of a load report, as one result."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from sidecar.cli.load.options import Gap

SHOWN = {
    "rows": "rows/s",
    "predictions": "predictions/s",
    "loop": "loop latency, ms, p50 / p99",
    "age": "prediction age, tokens, p50 / p99",
    "plans": "plans/s",
    "dropped": "rows dropped",
    "reconnects": "reconnects",
    "errors": "errors",
    "requests": "requests ended / alive / lost",
    "gap": "longest time without a fresh prediction, s",
}


class Tally:
    """Of one process: its newest report, and what was already there when measuring began."""

    def __init__(self) -> None:
        self.connected = 0
        self._newest: dict[str, Any] | None = None
        self._begun: dict[str, Any] | None = None
        self.latencies_ms: list[float] = []
        self.gaps: list[Gap] = []

    def report(self, report: dict[str, Any]) -> None:
        """Takes one in."""
        self._newest, self.connected = report, report["connected"]
        if self._begun is not None:
            self.latencies_ms += report["latencies_ms"]
            self.gaps += [Gap(*gap) for gap in report["gaps"]]

    def begin(self) -> None:
        """From here on it counts, and what was counted before does not."""
        self._begun, self.latencies_ms, self.gaps = self._newest, [], []

    @property
    def seconds(self) -> float:
        if self._begun is None or self._newest is None:
            return 0.0
        return float(self._newest["at_s"] - self._begun["at_s"])

    @property
    def counts(self) -> Counter[str]:
        """Since measuring began; `submitted`, `ended` and `alive` since the start."""
        if self._begun is None or self._newest is None:
            return Counter()
        newest, begun = Counter(self._newest["counts"]), self._begun["counts"]
        since = {name: value - begun[name] for name, value in newest.items()}
        return Counter(since | {name: newest[name] for name in ("submitted", "ended", "alive")})

    @property
    def ages(self) -> list[int]:
        """Histogram of prediction ages since measuring began."""
        if self._begun is None or self._newest is None:
            return []
        before = self._begun["ages"]
        return [count - (before[age] if age < len(before) else 0) for age, count in enumerate(self._newest["ages"])]

    @property
    def silent_s(self) -> float:
        return 0.0 if self._newest is None else float(self._newest["silent_s"])


def result(tallies: list[Tally]) -> dict[str, Any]:
    """All processes together. Rates are a second; None where nothing was seen."""
    counts: Counter[str] = sum((tally.counts for tally in tallies), Counter())
    seconds = max(tally.seconds for tally in tallies)
    latencies = np.array([ms for tally in tallies for ms in tally.latencies_ms])
    ages = np.zeros(max(len(tally.ages) for tally in tallies), np.int64)
    for tally in tallies:
        ages[: len(tally.ages)] += np.array(tally.ages, np.int64)
    gaps = [gap.seconds for tally in tallies for gap in tally.gaps]

    def rate(name: str) -> float:
        return round(counts[name] / seconds, 1) if seconds else 0.0

    return {
        "seconds": round(seconds, 2),
        "steps_per_s": rate("stepped"),
        "rows_per_s": rate("rows_shipped"),
        "predictions_per_s": rate("predictions_received"),
        "plans_per_s": rate("plans_received"),
        "loop_ms": _quantiles(latencies),
        "prediction_age_tokens": _of_histogram(ages),
        "rows_dropped": counts["rows_dropped"] + counts["row_records_dropped"],
        "reconnects": counts["predictor_streams_opened"] + counts["scheduler_streams_opened"],
        "row_errors": counts["row_errors"],
        "plans_rejected": counts["plans_rejected"],
        "degraded_answers": counts["degraded_answers"],
        "requests_ended": counts["ended"],
        "requests_alive": counts["alive"],
        "requests_lost": counts["submitted"] - counts["ended"] - counts["alive"],
        "longest_gap_s": round(max([*gaps, *(tally.silent_s for tally in tallies)], default=0.0), 3),
    }


def rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The result as people read it."""
    errors = found["row_errors"] + found["plans_rejected"]
    values = {
        "rows": f"{found['rows_per_s']:,.0f}",
        "predictions": f"{found['predictions_per_s']:,.0f}",
        "loop": _pair(found["loop_ms"]),
        "age": _pair(found["prediction_age_tokens"]),
        "plans": f"{found['plans_per_s']:,.0f}",
        "dropped": f"{found['rows_dropped']:,}",
        "reconnects": str(found["reconnects"]),
        "errors": str(errors),
        "requests": f"{found['requests_ended']:,} / {found['requests_alive']:,} / {found['requests_lost']:,}",
        "gap": f"{found['longest_gap_s']:.2f}",
    }
    return [(SHOWN[name], value) for name, value in values.items()]


def _pair(quantiles: dict[str, float] | None) -> str:
    return "none" if quantiles is None else f"{quantiles['p50']:g} / {quantiles['p99']:g}"


def _quantiles(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> dict[str, float] | None:
    if not len(values):
        return None
    return {f"p{level}": round(float(np.percentile(values, level)), 2) for level in (50, 99)}


def _of_histogram(counts: np.ndarray[tuple[int], np.dtype[np.int64]]) -> dict[str, float] | None:
    if not counts.sum():
        return None
    below = np.cumsum(counts)
    return {f"p{level}": int(np.searchsorted(below, level / 100 * below[-1])) for level in (50, 99)}
