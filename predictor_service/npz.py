"""Files of named arrays that are whole or absent."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]


def save_npz(path: Path, arrays: Arrays, *, compressed: bool = True) -> None:
    """Writes an npz file under another name first, so that ``path`` is whole or absent. Raises OSError."""
    part = path.with_name(f".{path.name}.part")
    save = np.savez_compressed if compressed else np.savez
    try:
        with part.open("wb") as file:
            save(file, **arrays)  # type: ignore[arg-type]  # its keyword allow_pickle is not meant
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
