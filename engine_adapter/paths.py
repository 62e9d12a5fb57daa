"""Where an engine's rings and plan board lie, and how large they are."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

EVENT_RING_BYTES = 16 << 20
ROW_RING_BYTES = 64 << 20
ENGINE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


@dataclass(frozen=True, slots=True)
class EnginePaths:
    """Files that the engine and its agent share."""

    folder: Path

    @property
    def events(self) -> Path:
        return self.folder / "events.ring"

    @property
    def rows(self) -> Path:
        return self.folder / "rows.ring"

    @property
    def row_bell(self) -> Path:
        return self.folder / "rows.bell"

    @property
    def board(self) -> Path:
        return self.folder / "plan.board"


def engine_paths(engine_id: str, root: Path | None = None) -> EnginePaths:
    """Files of the engine ``engine_id`` under ``root`` (default: a folder of this user in shared memory).

    Raises:
        ValueError: the id has other characters than A-Z a-z 0-9 . _ - or is not 1 to 128 long.
    """
    if not ENGINE_ID.fullmatch(engine_id) or engine_id in {".", ".."}:
        raise ValueError(f"engine_id: {engine_id!r} is not 1 to 128 of A-Z a-z 0-9 . _ -")
    return EnginePaths((root or default_root()) / engine_id)


def default_root() -> Path:
    """A folder of this user in shared memory where there is any."""
    shared = Path("/dev/shm")  # noqa: S108 - a private folder (0700) below it
    base = shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())
    return base / f"trail-{os.getuid()}"
