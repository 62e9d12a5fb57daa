"""What the scheduler service counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from sidecar.latency import BUCKETS_S, REQUEST_BUCKETS_S

PREFIX = "trail_scheduler"
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
_FAST_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)

PLANS = Counter(f"{PREFIX}_plans", "Plans sent.", ["engine", "policy", "predictor"])
PLANS_WITHHELD = Counter(f"{PREFIX}_plans_withheld", "Plans not made, by reason.", ["engine", "reason"])
PLAN_SECONDS = Histogram(f"{PREFIX}_plan_seconds", "Time to make a plan.", buckets=_FAST_S)
PLAN_WAIT_SECONDS = Histogram(
    f"{PREFIX}_plan_wait_seconds",
    "From the first delta that a plan rests on to the beginning of the plan: its turn, and the predictions that it "
    "waits for.",
    buckets=BUCKETS_S,
)
PLAN_REQUESTS = Histogram(f"{PREFIX}_plan_requests", "Requests that a plan names.", buckets=_COUNTS)
STEP_TO_PLAN_SECONDS = Histogram(
    f"{PREFIX}_step_to_plan_seconds", "From a delta to the plan by it, sent.", buckets=BUCKETS_S
)
PREEMPTIONS = Counter(f"{PREFIX}_preemptions_planned", "Preemptions asked for, repeats included.", ["engine"])
FALLBACKS = Counter(
    f"{PREFIX}_fallback_ranks", "Ranks for which the predictor pairing had no value of its own.", ["engine"]
)
PREEMPTION_LIMIT = Gauge(f"{PREFIX}_preemption_limit", "Limit c of the newest plan.", ["engine"])
ADMIT_TOGETHER = Gauge(
    f"{PREFIX}_admit_together", "Places that come free before the newest plan has anybody admitted.", ["engine"]
)
REQUESTS = Gauge(f"{PREFIX}_requests", "Living requests.", ["engine"])
RUNNING = Gauge(f"{PREFIX}_running_requests", "Requests in the engine's batch.", ["engine"])
WAITING = Gauge(f"{PREFIX}_waiting_requests", "Living requests outside the batch.", ["engine"])
ARM = Gauge(
    f"{PREFIX}_arm", "1 for the policy and the predictor pairing that an engine is planned by.",
    ["engine", "policy", "predictor"],
)  # fmt: skip
KV_USED = Gauge(f"{PREFIX}_kv_used_ratio", "Of the engine's KV blocks, how many are taken.", ["engine"])
RECOMPUTE = Gauge(
    f"{PREFIX}_recompute_ratio", "Of the tokens computed lately, how many had been computed before.", ["engine"]
)
LONGEST_WAIT = Gauge(
    f"{PREFIX}_longest_wait_seconds",
    "Since the oldest arrival among the waiting requests, by the engine's clock and ours; 0: nobody waits.",
    ["engine"],
)
STARVATION_MARGIN = Gauge(
    f"{PREFIX}_starvation_margin_seconds",
    "Service that later arrivals may still get before the longest-waiting request goes ahead of all of them: the "
    "bound of overtaking less what they had, seconds of the whole engine. The bound where nobody waits, +Inf without "
    "a bound, 0: it goes ahead, and waits for a place.",
    ["engine"],
)
FINISHED = Counter(f"{PREFIX}_finished_requests", "Requests that ended, by how.", ["engine", "reason"])
LATENCY = Histogram(
    f"{PREFIX}_request_latency_seconds", "From arrival to the end, of requests that ended by themselves.", ["engine"],
    buckets=REQUEST_BUCKETS_S,
)  # fmt: skip
TIME_TO_FIRST_TOKEN = Histogram(
    f"{PREFIX}_time_to_first_token_seconds", "From arrival to the first token, likewise.", ["engine"],
    buckets=REQUEST_BUCKETS_S,
)  # fmt: skip
PREEMPTIONS_JUDGED = Counter(
    f"{PREFIX}_preemptions_judged",
    "Preemptions done as planned, once both requests have ended, by whether they paid: with true lengths in place of "
    "the predicted ones, the victim had more service before it than the beneficiary, by more than computing its tokens "
    "again took of everybody in the batch. unknown: one of both was cut short.",
    ["engine", "verdict"],
)
PREEMPTION_SECONDS = Counter(
    f"{PREFIX}_preemption_seconds",
    "Waiting time, summed over requests, that those preemptions saved (verdict paid) or cost (unpaid), less recompute; "
    "what preempting brought is the first less the second.",
    ["engine", "verdict"],
)
STORE_UP = Gauge(f"{PREFIX}_store_up", "1 while the store answers.")
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


OF_ENGINES = tuple(
    metric
    for metric in globals().copy().values()
    if isinstance(metric, MetricWrapperBase) and "engine" in metric._labelnames
)
"""All whose series name an engine."""


def forget(engine_id: str) -> None:
    """Takes back all series of an engine; where it comes again, Prometheus sees a counter that began anew."""
    for metric in OF_ENGINES:
        metric.remove_by_labels({"engine": engine_id})
