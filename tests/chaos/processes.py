"""Processes that a test kills, stops, wakes, starts again and takes the disk from."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from sidecar.cli.demo.engine import free_port
from sidecar.supervise import Supervisor
from tests.patience import PATIENCE_S


def until(condition: Callable[[], object], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Waits for ``condition``; fails with ``what`` after ``timeout_s``."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end_s:
            raise TimeoutError(f"not in {timeout_s:.0f} s: {what}")
        time.sleep(0.01)


def command(module: str, clock: Path, flags: Mapping[str, object]) -> list[str]:
    """Runs a module under a wall clock that may jump."""
    given = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    return [sys.executable, "-m", "tests.chaos.clock", str(clock), module, *given]


class Metrics:
    """A Prometheus endpoint of a process."""

    def __init__(self) -> None:
        self.port = free_port()

    def value(self, name: str, **labels: str) -> float | None:
        """The sum over the series that have these labels; None where there is none, or nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:  # noqa: S310
                text = answer.read().decode()
        except (urllib.error.URLError, OSError):
            return None
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        found = [each.value for each in samples if each.name == name and labels.items() <= each.labels.items()]
        return sum(found) if found else None


class Process:
    """What all of them can be put through; ``pid`` is of its present life."""

    def __init__(self, log: Path) -> None:
        self.metrics, self.log = Metrics(), log

    @property
    def pid(self) -> int:
        raise NotImplementedError

    def stop(self) -> None:
        """SIGSTOP: it is there, and does nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def wake(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def fill_disk(self) -> None:
        """From now on nothing can be appended to any file."""
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

    def free_disk(self) -> None:
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def logged(self, text: str) -> int:
        """How often."""
        return self.log.read_text(errors="replace").count(text) if self.log.exists() else 0


class Service(Process):
    """The predictor or the scheduler; it keeps its port over its lives."""

    def __init__(self, module: str, clock: Path, log: Path, **flags: object) -> None:
        super().__init__(log)
        self.port = free_port()
        ports = {"port": self.port, "metrics_port": self.metrics.port}
        self._command = command(module, clock, {**ports, **flags})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def begin(self) -> None:
        """Starts it, and does not wait."""
        self._lives = self.logged('"event": "ready"')
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=output)

    def start(self) -> None:
        """Returns when it says that it is ready."""
        self.begin()
        self.until_ready()

    def until_ready(self) -> None:
        until(lambda: self.logged('"event": "ready"') > self._lives, f"{self._command[4]} is ready")

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Agent(Process):
    """The agent, under the supervisor that ``trail serve`` has for it."""

    def __init__(self, clock: Path, log: Path, settings: Mapping[str, object]) -> None:
        super().__init__(log)
        told = {"metrics_port": self.metrics.port, "exit_with_parent": "true", **settings}
        environment = {f"TRAIL_AGENT_{name.upper()}": str(value) for name, value in told.items()}
        self._output = log.open("ab")
        self._supervisor = Supervisor(
            "agent", command("engine_adapter.agent", clock, {}), environment, log=self._output
        )
        self._supervisor.start()

    @property
    def pid(self) -> int:
        until(lambda: self._supervisor.process_id, "an agent runs")
        found = self._supervisor.process_id
        assert found is not None
        return found

    def kill(self) -> int:
        """SIGKILL; the supervisor starts another one. Returns which one died."""
        killed = self.pid
        os.kill(killed, signal.SIGKILL)
        return killed

    def until_another(self, than: int) -> None:
        until(lambda: self._supervisor.process_id not in (None, than), "another agent runs")

    def close(self) -> None:
        self._supervisor.close()
        self._output.close()
