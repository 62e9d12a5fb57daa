"""Results on disk, under names that tell everything they depend on."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import engine_adapter.simulated
import scheduler_service
import sidecar.cli.simulate


def path_of(out: Path, name: str, described: Any, files: Iterable[Path | None]) -> Path:
    """Where a result is, or would be: its name, and a digest of what it was made from: the description (anything that
    JSON holds), those of the files that exist, and the code. Whatever changes, the file is another."""
    text = json.dumps(described, sort_keys=True) + "".join(_digest_of(path) for path in files if path) + _code()
    readable = re.sub(r"[^\w.=-]+", "_", name)[:120]
    return out / f"{readable}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def read(path: Path) -> dict[str, Any] | None:
    """The result there; None where there is none, or half of one."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return None


def write(path: Path, result: dict[str, Any]) -> None:
    """Whole or not at all: a sweep can be stopped at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps(result, indent=1) + "\n")
    unfinished.replace(path)


@cache
def _digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


@cache
def _code() -> str:
    found = hashlib.sha256()
    for package in (scheduler_service, engine_adapter.simulated, sidecar.cli.simulate):
        for path in sorted(Path(package.__path__[0]).rglob("*.py")):
            found.update(path.read_bytes())
    return found.hexdigest()
