"""What experiments tell Prometheus."""

from prometheus_client import Counter, Gauge, Histogram

from sidecar.latency import REQUEST_BUCKETS_S

PREFIX = "trail_scheduler_experiment"

ARM = Gauge(f"{PREFIX}_arm", "1 while an engine serves this arm.", ["experiment", "engine", "arm"])
REQUESTS = Counter(
    f"{PREFIX}_requests", "Requests that ended and count for an arm, by how.", ["experiment", "arm", "reason"]
)
LATENCY_SECONDS = Histogram(
    f"{PREFIX}_latency_seconds",
    "Latency of requests that count for an arm.",
    ["experiment", "arm"],
    buckets=REQUEST_BUCKETS_S,
)
TTFT_SECONDS = Histogram(
    f"{PREFIX}_time_to_first_token_seconds",
    "Time to first token of requests that count for an arm.",
    ["experiment", "arm"],
    buckets=REQUEST_BUCKETS_S,
)
EFFECT = Gauge(
    f"{PREFIX}_effect",
    "The deciding figure of an arm against control: estimate, and low and high of its confidence sequence; a share of "
    "control's, or a difference for rates.",
    ["experiment", "arm", "metric", "bound"],
)
GUARDRAIL_STOPS = Counter(
    f"{PREFIX}_guardrail_stops", "Experiments sent back to control.", ["experiment", "arm", "guardrail"]
)
