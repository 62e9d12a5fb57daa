"""What the scheduler service counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from sidecar.latency import BUCKETS_S

PREFIX = "trail_scheduler"
_FAST_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)

PLANS = Counter(f"{PREFIX}_plans", "Plans sent.", ["engine", "policy", "predictor"])
PLANS_WITHHELD = Counter(f"{PREFIX}_plans_withheld", "Plans not made, by reason.", ["engine", "reason"])
PLAN_SECONDS = Histogram(f"{PREFIX}_plan_seconds", "Time to make a plan.", buckets=_FAST_S)
STEP_TO_PLAN_SECONDS = Histogram(
    f"{PREFIX}_step_to_plan_seconds", "From a delta to the plan by it, sent.", buckets=BUCKETS_S
)
PREEMPTIONS = Counter(f"{PREFIX}_preemptions_planned", "Preemptions asked for, repeats included.", ["engine"])
FALLBACKS = Counter(
    f"{PREFIX}_fallback_ranks", "Ranks for which the predictor pairing had no value of its own.", ["engine"]
)
PREEMPTION_LIMIT = Gauge(f"{PREFIX}_preemption_limit", "Limit c of the newest plan.", ["engine"])
REQUESTS = Gauge(f"{PREFIX}_requests", "Living requests.", ["engine"])
STREAMS = Gauge(f"{PREFIX}_streams", "Open Coordinate streams.")
FENCED = Counter(f"{PREFIX}_fenced_streams", "Streams ended by a newer one of the same engine.")
DELTAS = Counter(f"{PREFIX}_deltas", "State deltas, by what became of them.", ["engine", "status"])
UNKNOWN_HANDLES = Counter(f"{PREFIX}_unknown_handles", "Handles of requests that are not alive.", ["engine"])
MESSAGES = Counter(
    f"{PREFIX}_prediction_messages", "Messages on the predictions channel, by what became of them.",
    ["engine", "status"],
)  # fmt: skip
STORE_READS = Counter(f"{PREFIX}_store_reads", "Reads of all stored predictions, by cause.", ["engine", "cause"])
OUTCOMES = Counter(f"{PREFIX}_outcomes", "Outcomes, by what became of their record.", ["status"])
