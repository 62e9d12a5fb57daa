"""Numbered npz files in one folder: each is written whole or not at all, and says what it was made from."""

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.filesize import decimal

from predictor_service.npz import Arrays, save_npz

__all__ = ["BrokenShard", "ShardError", "Shards", "load_npz", "load_shards", "require_space", "save_npz", "write_text"]

_ORIGIN = "origin"


class ShardError(RuntimeError):
    """A shard cannot be written or used; the text names it and says what to do."""


class BrokenShard(ShardError):
    """A file that is not a whole shard."""


class Shards:
    """The shards ``00000.npz``, ``00001.npz``, ... of one folder, all made from ``origin``.

    ``origin`` is kept beside them as ``origin.json``. Raises ShardError, naming what differs, where the folder was
    begun with another origin.
    """

    def __init__(self, folder: Path, origin: Mapping[str, Any]) -> None:
        self._folder = folder
        self._origin = json.loads(json.dumps(origin))
        self._digest = hashlib.sha256(json.dumps(self._origin, sort_keys=True).encode()).hexdigest()
        note = folder / "origin.json"
        if note.exists():
            self._check(json.loads(note.read_text()))
        folder.mkdir(parents=True, exist_ok=True)
        write_text(note, json.dumps(self._origin, indent=1))

    def path(self, number: int) -> Path:
        return self._folder / f"{number:05d}.npz"

    def is_whole(self, number: int) -> bool:
        """Whether the shard is there; False too for a half-written one, which may be written again.

        Raises ShardError for a shard of another origin.
        """
        if not self.path(number).exists():
            return False
        try:
            self.load(number)
        except BrokenShard:
            return False
        return True

    def load(self, number: int) -> dict[str, NDArray[Any]]:
        """The arrays of one shard. Raises BrokenShard, or ShardError for a shard of another origin."""
        arrays = load_npz(self.path(number))
        if str(arrays.pop(_ORIGIN, "")) != self._digest:
            raise ShardError(f"{self.path(number)}: made with other inputs or settings; move it away")
        return arrays

    def save(self, number: int, arrays: Arrays) -> None:
        """Writes one shard. Raises ShardError where the disk does not take it; earlier shards stay usable."""
        try:
            save_npz(self.path(number), {**arrays, _ORIGIN: np.array(self._digest)})
        except OSError as error:
            whole = sum(self.is_whole(int(path.stem)) for path in self._folder.glob("[0-9]*.npz"))
            raise ShardError(
                f"{self.path(number)}: not written ({error.strerror or error}); the {whole} shards beside it are whole "
                "and usable; make room and run again to go on from here"
            ) from None

    def _check(self, found: Any) -> None:
        kept = found if isinstance(found, dict) else {}
        differing = sorted(key for key in self._origin | kept if self._origin.get(key) != kept.get(key))
        if differing:
            raise ShardError(
                f"{self._folder}: begun with other {', '.join(differing)}; use the same again or another folder"
            )


def load_shards(folder: Path) -> list[dict[str, NDArray[Any]]]:
    """The arrays of all shards there are, in order.

    Raises ShardError naming a half-written one or one whose origin is not that of the folder, and where there is none.
    """
    try:
        shards = Shards(folder, json.loads((folder / "origin.json").read_text()))
    except (OSError, json.JSONDecodeError) as error:
        raise ShardError(f"{folder}: not a folder of shards ({error})") from None
    numbers = sorted(int(path.stem) for path in folder.glob("[0-9]*.npz"))
    if not numbers:
        raise ShardError(f"{folder}: no shard was finished")
    return [shards.load(number) for number in numbers]


def load_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Every array of a file. Raises BrokenShard where it is not a whole npz file."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, AttributeError) as error:
        raise BrokenShard(f"{path}: half-written or not an npz file ({error}); delete it to make it again") from None


def write_text(path: Path, text: str) -> None:
    """Writes a text file under another name first. Raises OSError."""
    part = path.with_name(f".{path.name}.{os.getpid()}")  # several processes may write the same
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def require_space(folder: Path, needed_bytes: int) -> str:
    """What is needed and what is free, in words. Raises ShardError where it does not fit on the disk."""
    free_bytes = shutil.disk_usage(folder).free
    words = f"needs at most {decimal(needed_bytes)}, {decimal(free_bytes)} are free"
    if needed_bytes > free_bytes:
        raise ShardError(f"{folder}: {words}; make room or choose another folder")
    return words
