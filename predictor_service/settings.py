"""What the predictor service can be told."""

from pathlib import Path

from pydantic import Field
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
    """Artefact for streams that name none; empty: the first by name."""
    model_threads: int = Field(default=1, ge=1)
    """Threads of one run of a model on the CPU."""
    max_engines: int = Field(default=64, ge=1)
    """Most engines with an open stream."""
    posterior_expire_s: int = Field(default=3600, ge=1)
    """Seconds after an engine's last commit at which the store drops what it holds of it."""
