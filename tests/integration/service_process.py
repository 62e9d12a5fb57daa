"""A service as its command starts it, on a port that it keeps over its lives."""

import json
import os
import subprocess
import sys
import threading
from typing import IO

from tests.patience import PATIENCE_S


class ServiceProcess:
    """`module` is what `python -m` runs; `flags` are its settings."""

    def __init__(self, module: str, **flags: object) -> None:
        self._command = [sys.executable, "-m", module]
        self._flags = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
        self._process: subprocess.Popen[str] | None = None
        self.log: list[str] = []
        self.port = 0

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it says that it is ready."""
        self._process = subprocess.Popen(
            [*self._command, f"--port={self.port}", *self._flags], stderr=subprocess.PIPE, text=True, env=os.environ
        )
        assert self._process.stderr is not None
        ready = threading.Event()
        threading.Thread(target=self._follow, args=(self._process.stderr, ready), daemon=True).start()
        assert ready.wait(PATIENCE_S), self.log
        assert self._process.poll() is None, self.log

    @property
    def process_id(self) -> int:
        """Of the life that goes on now."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _follow(self, stderr: IO[str], ready: threading.Event) -> None:
        for line in stderr:
            self.log.append(line)
            if '"event": "ready"' in line:
                self.port = int(json.loads(line)["address"].rsplit(":", 1)[1])
                ready.set()
        ready.set()
        stderr.close()
