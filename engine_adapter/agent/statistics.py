"""The agent's numbers, as one JSON file beside the rings."""

import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from prometheus_client import Histogram

from engine_adapter.agent.counters import Counters
from engine_adapter.agent.hops import Hops
from engine_adapter.agent.link import Link
from engine_adapter.agent.living import LivingRequests
from engine_adapter.agent.plan_book import PlanBook, median_of


class Statistics:
    """Reads what the parts count; nothing here runs on the hot path."""

    def __init__(
        self,
        counters: Counters,
        plans: PlanBook,
        living: LivingRequests,
        links: tuple[Link[Any, Any], ...],
        hops: Hops,
    ) -> None:
        self._counters, self._plans, self._living, self._links, self._hops = counters, plans, living, links, hops
        self._started_s = time.time()
        self._written = True
        self._log = structlog.get_logger("statistics")

    def snapshot(self) -> dict[str, Any]:
        """All numbers. ``counters`` and the histograms only rise; the derived ones are over the agent's whole life."""
        counters = self._counters
        histogram = self._plans.age_histogram
        last = int(np.flatnonzero(histogram)[-1]) if histogram.any() else -1
        return {
            "process_id": os.getpid(),
            "started_s": self._started_s,
            "written_s": time.time(),
            "counters": asdict(counters),
            "prediction_age_tokens_histogram": histogram[: last + 1].tolist(),
            "prediction_age_tokens_p50": median_of(histogram),
            "hop_seconds": _counts(self._hops.seconds),
            "refined_share": _share(counters.refined_predictions_used, counters.predictions_used_past_first_token),
            "mean_absolute_error_tokens": _share(counters.absolute_error_tokens_sum, counters.finished_predictions),
            "living_requests": len(self._living),
            "connected": {link.name: link.connected for link in self._links},
        }

    def write(self, path: Path) -> None:
        """Replaces the file at ``path`` as a whole: a reader sees the old one or the new one.

        Where there is no room for it the old one stays; that is logged once, until it can be written again.
        """
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            fresh.write_text(json.dumps(self.snapshot()))
            fresh.replace(path)
            self._written = True
        except OSError as error:
            if self._written:
                self._log.warning("statistics not written", path=str(path), reason=str(error))
            self._written = False
            fresh.unlink(missing_ok=True)


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _counts(seconds: Histogram) -> dict[str, dict[str, float]]:
    """Of each hop: how often it took at most so many seconds, and the sum of all."""
    counts: dict[str, dict[str, float]] = {}
    for sample in (sample for metric in seconds.collect() for sample in metric.samples):
        if sample.name.endswith(("_bucket", "_sum")):
            counts.setdefault(sample.labels["hop"], {})[sample.labels.get("le", "sum")] = sample.value
    return counts
