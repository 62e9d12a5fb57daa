"""``python -m tests.chaos.clock FILE MODULE [flags]``: runs a module whose wall clock is off by what FILE says."""

from __future__ import annotations

import contextlib
import mmap
import runpy
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_OFFSET = struct.Struct("<d")


class ClockOffset:
    """Seconds by which a wall clock is off, shared through a file. Monotonic clocks never jump."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(_OFFSET.pack(0.0))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _OFFSET.size)

    @property
    def seconds(self) -> float:
        return float(_OFFSET.unpack_from(self._map)[0])

    @seconds.setter
    def seconds(self, value: float) -> None:
        _OFFSET.pack_into(self._map, 0, value)

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """So long this process's wall clock is off."""
        true_time = time.time
        time.time = lambda: true_time() + self.seconds
        try:
            yield
        finally:
            time.time = true_time


if __name__ == "__main__":
    _, path, module, *flags = sys.argv
    sys.argv = [module, *flags]
    with ClockOffset(Path(path)).installed():
        runpy.run_module(module, run_name="__main__", alter_sys=True)
