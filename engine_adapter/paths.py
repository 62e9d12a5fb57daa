"""Where an engine's rings and plan board lie, and how large they are."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

EVENT_RING_BYTES = 16 << 20
ROW_RING_BYTES = 64 << 20
ENGINE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class FolderError(RuntimeError):
    """A folder in which somebody else could read or exchange our files."""


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


def private_folder(folder: Path) -> None:
    """Makes the folder, and the one above it, for this user alone, unless it is there and so.

    Raises:
        FolderError: one of them is a link or another user's, or others can write into that above.
        OSError: it cannot be made.
    """
    for each in (folder.parent, folder):
        each.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            each.mkdir(mode=0o700)
    _check_above(folder.parent)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise FolderError(f"{folder}: not a folder of user {os.getuid()}; remove it and start again")
    if stat.S_IMODE(status.st_mode) & 0o077:
        folder.chmod(0o700)


def _check_above(folder: Path) -> None:
    """Nobody else may exchange what lies in it."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (os.getuid(), 0):
        raise FolderError(f"{folder}: not a folder of user {os.getuid()}; remove it, or give another shm_root")
    if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
        raise FolderError(f"{folder}: others can write into it: chmod go-w, or give another shm_root")
