"""What the agent can be told."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_settings import SettingsConfigDict

from sidecar import targets
from sidecar.dial import DialSettings
from sidecar.tracing import needs_extra


def _target(addresses: str) -> str:
    targets.target(addresses)
    return addresses


class AgentSettings(DialSettings):
    """The agent beside one engine: rings in, streams to both services, plan board out."""

    model_config = SettingsConfigDict(
        env_prefix="TRAIL_AGENT_", extra="forbid", use_attribute_docstrings=True, protected_namespaces=()
    )

    config: Path | None = None
    """TOML file with any of these settings."""
    engine_id: str = Field(default="engine-0", pattern=r"^[A-Za-z0-9._-]{1,128}$")
    """Name of the engine in the store and at the services."""
    shm_root: Path | None = None
    """Folder of the rings and the board; default: a private folder in shared memory."""
    predictor_target: Annotated[str, AfterValidator(_target)] = "127.0.0.1:50061"
    """Address of the predictor service; of several replicas dns:///NAME:PORT, or IP:PORT,IP:PORT."""
    scheduler_target: Annotated[str, AfterValidator(_target)] = "127.0.0.1:50062"
    """Address of the scheduler service, likewise."""
    model: str = ""
    """Name of the predictor's model; empty: the service's default."""
    projection: str = ""
    """Id of the projection that the engine's rows go through, as `trail serve` tells it; empty: hidden states."""
    poll_interval_ms: float = Field(default=1.0, gt=0)
    """Milliseconds between two looks at the rings while the engine is busy."""
    idle_poll_interval_ms: float = Field(default=10.0, gt=0)
    """The same while nothing has come for half a second."""
    reconnect_initial_ms: int = Field(default=100, ge=1)
    """First wait before a stream is opened again; it doubles, with jitter."""
    reconnect_max_ms: int = Field(default=2000, ge=1)
    """Longest wait before a stream is opened again."""
    call_timeout_ms: int = Field(default=5000, ge=1)
    """Milliseconds that opening a stream may take."""
    ack_timeout_ms: int = Field(default=1000, ge=1)
    """Milliseconds without an answer after which a stream counts as dead."""
    plan_ttl_limit_ms: int = Field(default=10_000, ge=1)
    """No plan lives longer, whatever the scheduler says."""
    max_requests: int = Field(default=16_384, ge=1)
    """Most living requests that are declared; the engine serves any others in its own order."""
    max_rows_per_message: int = Field(default=4096, ge=1)
    """Most vectors in one message."""
    max_message_bytes: int = Field(default=64 * 1024 * 1024, ge=1024)
    """Largest message that is sent or accepted."""
    metrics_host: str = "127.0.0.1"
    """Address of the Prometheus endpoint."""
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """TCP port of the Prometheus endpoint; 0: off."""
    trace_ratio: Annotated[float, AfterValidator(needs_extra)] = Field(default=0.0, ge=0, le=1)
    """Share of the engine's steps that are traced to their plan, one at a time; 0: none."""
    otlp_endpoint: str = ""
    """Collector of traces, OTLP over gRPC: http://host:4317; empty: OTEL_EXPORTER_OTLP_ENDPOINT, or port 4317 here."""
    exit_with_parent: bool = False
    """End when standard input does: a supervisor holds its other end."""
    log_level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    """Least severity that is logged."""
    log_format: Literal["json", "console"] = "json"
    """Log lines for machines or for people."""
