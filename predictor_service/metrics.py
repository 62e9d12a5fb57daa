"""What Prometheus is told."""

from prometheus_client import Counter, Enum, Gauge, Histogram

from sidecar.latency import BUCKETS_S

_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_NATS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0, 3.5, 4.0)

STEPS = Counter("trail_predictor_steps", "Engine steps answered")
ROWS = Counter("trail_predictor_rows", "Hidden-state rows received")
STEP_ROWS = Histogram("trail_predictor_step_rows", "Rows of a step: the batch of one run of a model", buckets=_ROWS)
PROMPTS = Counter("trail_predictor_prompts", "Requests declared in a step, each predicted from its prompt")
ENTROPY = Histogram(
    "trail_predictor_posterior_entropy_nats",
    "How unsure a posterior is: -sum q log q, of one request a step; log(bins) where nothing is known, 0 where one bin "
    "is certain",
    buckets=_NATS,
)
ROW_ERRORS = Counter("trail_predictor_row_errors", "Rows that could not be used", ["status"])
STEP_SECONDS = Histogram(
    "trail_predictor_step_seconds",
    "Time of a step: reading its message (read), waiting for the engine's turn (queue), in the models (compute), of "
    "which the classifier (model) and what follows it (posterior), in the store (store)",
    ["part"],
    buckets=BUCKETS_S,
)
QUEUE_SECONDS = Gauge("trail_predictor_queue_seconds", "How long a message waits for its turn, lately")
REFUSED_STREAMS = Counter("trail_predictor_refused_streams", "Streams sent elsewhere, by what is full", ["limit"])
SHED_STREAMS = Counter("trail_predictor_shed_streams", "Engines sent away, by the limit that was exceeded", ["limit"])
for _limit in ("max_rows_per_s", "max_queue_ms"):
    # A counter that begins at its first event has not risen, for Prometheus.
    SHED_STREAMS.labels(_limit)
STREAMS = Gauge("trail_predictor_streams", "Engines with an open stream")
POSTERIORS = Gauge("trail_predictor_posteriors", "Living requests of engines with an open stream")
FENCED = Counter("trail_predictor_fenced_commits", "Commits refused because another epoch owns the engine")
DEGRADED_STEPS = Counter("trail_predictor_degraded_steps", "Steps answered from memory, the store being gone")
STORE_UP = Gauge("trail_predictor_store_up", "1 while the store answers")
RECORDING = Gauge("trail_predictor_recording", "1 while rows are recorded for training; 0: off, or stopped")
RECORDED_ROWS = Counter("trail_predictor_recorded_rows", "Rows recorded for training")
RECORD_DROPPED_ROWS = Counter("trail_predictor_record_dropped_rows", "Rows that the recorder had no time for")
BAD_ARTEFACTS = Counter("trail_predictor_bad_artefacts", "Artefacts that were refused; what served before goes on")
DEGRADED_MODELS = Gauge("trail_predictor_degraded_models", "Models that serve on the CPU because CUDA failed")
SWITCHES = Counter("trail_predictor_switches", "Engines that went to another artefact between two steps")
LIVE_REQUESTS = Gauge("trail_predictor_live_requests", "Finished requests behind the live figures", ["model"])
LIVE_MAE = Gauge("trail_predictor_live_mae_tokens", "Live error of the median remaining length", ["model"])
LIVE_TAU = Gauge("trail_predictor_live_kendall_tau", "Live rank correlation of the median remaining length", ["model"])
LIVE_COVERAGE = Gauge("trail_predictor_live_coverage", "Share of live lengths inside the 80 % interval", ["model"])
TEST_MAE = Gauge("trail_predictor_test_mae_tokens", "As the live figure, on the artefact's own test data", ["model"])
TEST_TAU = Gauge("trail_predictor_test_kendall_tau", "As the live figure, on the artefact's own test data", ["model"])
TEST_COVERAGE = Gauge("trail_predictor_test_coverage", "As the live figure, on the artefact's own test data", ["model"])
CANARY = Enum(
    "trail_predictor_canary",
    "What becomes of the canary artefact",
    ["model"],
    states=["unfit", "on trial", "ready", "returned"],
)
CANARY_RETURNS = Counter("trail_predictor_canary_returns", "Canaries found worse than the stable artefact", ["model"])
