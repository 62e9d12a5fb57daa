"""Settings of the adapter inside the engine. They come through ``--additional-config``, which vLLM hashes into its
compile cache: a graph compiled for other tapped layers is never reused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine_adapter.paths import EVENT_RING_BYTES, ROW_RING_BYTES, EnginePaths, engine_paths
from engine_adapter.ring import CELL

if TYPE_CHECKING:
    from vllm.config import VllmConfig


class ProjectionSettings(BaseModel):
    """What rows go through before they are shipped, as `trail serve` fetched it from the predictor."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path
    """Its file."""
    id: str
    """First digits of the file's SHA-256."""
    dim: int = Field(ge=1)
    """Values of a projected row."""


class AdapterSettings(BaseModel):
    """The value of ``trail`` in ``--additional-config``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine_id: str = "engine-0"
    """Name of this engine, the same that its agent has."""
    shm_root: Path | None = None
    """Folder of the rings; default: a private folder in shared memory."""
    layers: tuple[int, ...] = ()
    """Hidden layers to tap, as in transformers' ``hidden_states[L]``; none: nothing is tapped."""
    row_dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """How vectors travel."""
    projection: ProjectionSettings | None = None
    """None: the layers' values are shipped."""
    predict_every_tokens: int = Field(1, ge=1)
    """K: a decode row is shipped at every K-th age."""
    tap_share: float = Field(0.02, gt=0, le=1)
    """Of the engine thread's time that shipping may take where that thread is what holds the engine up: some steps
    ship nothing then. 1: every step ships."""
    event_ring_bytes: int = Field(EVENT_RING_BYTES, ge=1 << 16, multiple_of=CELL)
    row_ring_bytes: int = Field(ROW_RING_BYTES, ge=1 << 16, multiple_of=CELL)

    @property
    def paths(self) -> EnginePaths:
        return engine_paths(self.engine_id, self.shm_root)


def read(vllm_config: VllmConfig) -> AdapterSettings:
    """The adapter's settings.

    Raises:
        ValueError: there are none, or a field is unknown or wrong; the message names it.
    """
    given = vllm_config.additional_config
    values = given.get("trail") if isinstance(given, dict) else None
    if values is None:
        raise ValueError('--additional-config: needs {"trail": {...}} for the trail adapter')
    try:
        return AdapterSettings.model_validate(values)
    except ValidationError as error:
        faults = "; ".join(f"trail.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ValueError(f"--additional-config: {faults}") from None
