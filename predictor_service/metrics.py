"""What Prometheus is told."""

from prometheus_client import Counter, Gauge, Histogram

_LATENCY_BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)

STEPS = Counter("trail_predictor_steps", "Engine steps answered")
ROWS = Counter("trail_predictor_rows", "Hidden-state rows received")
ROW_ERRORS = Counter("trail_predictor_row_errors", "Rows that could not be used", ["status"])
STEP_SECONDS = Histogram(
    "trail_predictor_step_seconds",
    "Time of a step: waiting for the engine's turn (queue), in the models (compute), in the store (store)",
    ["part"],
    buckets=_LATENCY_BUCKETS_S,
)
STREAMS = Gauge("trail_predictor_streams", "Engines with an open stream")
POSTERIORS = Gauge("trail_predictor_posteriors", "Living requests of engines with an open stream")
FENCED = Counter("trail_predictor_fenced_commits", "Commits refused because another epoch owns the engine")
DEGRADED_STEPS = Counter("trail_predictor_degraded_steps", "Steps answered from memory, the store being gone")
STORE_UP = Gauge("trail_predictor_store_up", "1 while the store answers")
