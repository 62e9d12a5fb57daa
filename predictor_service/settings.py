"""What the predictor service can be told."""

from pathlib import Path

from pydantic import Field, FilePath, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from sidecar.settings import ServerSettings


class PredictorSettings(ServerSettings):
    """The predictor service: remaining output lengths of LLM requests, from hidden states."""

    model_config = SettingsConfigDict(env_prefix="TRAIL_PREDICTOR_")

    port: int = Field(default=50061, ge=0, le=65535)
    """TCP port of the gRPC server; 0: any free one."""
    model_dir: list[Path] = [Path(__file__).parent / "models"]
    """Folder of a model artefact, or of several, one a folder; may be given more than once."""
    default_model: str = ""
    """Artefact for streams that name none; empty: the first by name when the service starts."""
    model_public_key_file: FilePath | None = None
    """Public key (Ed25519, PEM) by which artefacts must be signed (`trail predictor sign`); none: none need be."""
    model_poll_s: float = Field(default=10.0, ge=0)
    """Seconds between looks at the model folders for new artefacts; 0: only on SIGHUP."""
    canary_model: str = ""
    """Artefact on trial with a share of the engines that name none, against default_model, which must be given too."""
    canary_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the engines that get the artefact on trial."""
    live_window_requests: int = Field(default=500, ge=100, le=2000)
    """Finished requests of an artefact behind its live figures."""
    canary_requests: int = Field(default=200, ge=20, le=2000)
    """Finished requests of each artefact before that on trial is judged; at most live_window_requests."""
    outcome_poll_s: float = Field(default=5.0, gt=0)
    """Seconds between looks at how requests ended."""
    model_threads: int = Field(default=1, ge=1)
    """Threads of one run of a model on the CPU."""
    model_int8: bool = True
    """On a CPU, run an artefact's graph in eight bits where it has one: faster, and nearly as exact."""
    max_engines: int = Field(default=64, ge=1)
    """Most engines with an open stream."""
    max_rows_per_s: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Rows a second that are served well: from three quarters on no further engine is taken, above it the newest are
    sent away, to another replica or their own order; 0: no limit."""
    max_queue_ms: float = Field(default=100.0, ge=0, allow_inf_nan=False)
    """Milliseconds that half of the messages may wait for their turn, likewise; 0: no limit."""
    posterior_expire_s: int = Field(default=3600, ge=1)
    """Seconds after an engine's last commit at which the store drops what it holds of it."""
    record_dir: Path | None = None
    """Folder to record hidden states and prompts in, for training; none: nothing is recorded."""
    record_every: int = Field(default=1, ge=1)
    """One request in this many is recorded, chosen by a hash of its id."""
    record_max_bytes: int = Field(default=10 * 1024**3, ge=0)
    """Bytes of recordings in record_dir at which recording stops; predictions go on."""

    @field_validator("canary_model")
    @classmethod
    def _against_a_named_one(cls, name: str, info: ValidationInfo) -> str:
        if name and info.data.get("default_model") in ("", name):
            raise ValueError("default_model must name another artefact, the stable one")
        return name

    @field_validator("canary_requests")
    @classmethod
    def _within_the_window(cls, requests: int, info: ValidationInfo) -> int:
        if requests > info.data.get("live_window_requests", requests):
            raise ValueError("must not exceed live_window_requests")
        return requests
