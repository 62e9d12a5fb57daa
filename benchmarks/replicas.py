"""Services as their commands start them, any number of each, that can be killed and stay dead."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import IO

import psutil

START_TIMEOUT_S = 60.0


class Replica:
    """One process; `address` is known once it is ready. It keeps to `cores` where there are any."""

    def __init__(self, module: str, log: Path, *, cores: Collection[int] = (), **flags: object) -> None:
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
        self._command = [sys.executable, "-m", module, "--port=0", *arguments]
        self._log_file = log
        self._cores = cores
        self._ready = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self.address = ""

    def start(self) -> None:
        """Does not wait."""
        # Before its threads: each of them inherits its cores from the one that started it.
        own = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self._cores or own)
        try:
            self._process = subprocess.Popen(
                [*self._command, "--exit-with-parent"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        finally:
            os.sched_setaffinity(0, own)
        threading.Thread(target=self._follow, args=(self._process.stderr,), daemon=True).start()

    def wait(self) -> None:
        """Until it serves. Raises RuntimeError where it does not."""
        if not self._ready.wait(START_TIMEOUT_S) or not self.address:
            raise RuntimeError(f"{self._command[2]} did not start: {self._log_file.read_text()[-2000:]}")

    @property
    def process(self) -> psutil.Process:
        """As others see it, once it was started."""
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _follow(self, stderr: IO[str] | None) -> None:
        with self._log_file.open("a") as log:
            for line in stderr or ():
                log.write(line)
                log.flush()
                if '"event": "ready"' in line:
                    self.address = json.loads(line)["address"]
                    self._ready.set()
        self._ready.set()


@contextlib.contextmanager
def running(replicas: Sequence[Replica]) -> Iterator[None]:
    """All of them, ready; killed at the end."""
    try:
        for replica in replicas:
            replica.start()
        for replica in replicas:
            replica.wait()
        yield
    finally:
        for replica in replicas:
            replica.kill()


def addresses(replicas: Sequence[Replica]) -> str:
    """As an agent takes them."""
    return ",".join(replica.address for replica in replicas)
