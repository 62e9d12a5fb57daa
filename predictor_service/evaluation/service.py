"""A predictor service of our own, for the time of an evaluation."""

import contextlib
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc

from sidecar.cli.stack import StackError, embedded_valkey
from sidecar.dial import dialled
from sidecar.supervise import Supervisor

HOST = "127.0.0.1"
# Nobody waits for a step here, and a store that is slow for a moment would flag predictions as degraded.
STORE_TIMEOUT_MS = 10_000


@dataclass(frozen=True)
class Address:
    """Where a predictor service listens, and its store, where that is known."""

    predictor: str
    redis_url: str | None = None


@contextlib.contextmanager
def running_predictor(artefact: Path, log_file: Path, start_timeout_s: float = 60.0) -> Iterator[Address]:
    """Runs the service and an embedded Valkey as child processes, with one artefact folder.

    Raises:
        StackError: one of them was not ready in ``start_timeout_s``; the text names the log.
    """
    port = _free_port()
    with log_file.open("ab") as log, embedded_valkey(log, start_timeout_s) as redis_url:
        flags = {
            "host": HOST,
            "port": port,
            "redis-url": redis_url,
            "redis-timeout-ms": STORE_TIMEOUT_MS,
            "model-dir": artefact,
        }
        command = [sys.executable, "-m", "predictor_service.main", "--exit-with-parent"]
        command += [part for name, value in flags.items() for part in (f"--{name}", str(value))]
        with Supervisor("predictor", command, log=log) as service:
            _await_ready(service, f"{HOST}:{port}", start_timeout_s, log_file)
            yield Address(f"{HOST}:{port}", redis_url)


def _await_ready(service: Supervisor, address: str, timeout_s: float, log_file: Path) -> None:
    """The service listens only once its model is loaded and its store was asked."""
    deadline_s = time.monotonic() + timeout_s
    with dialled(address) as channel:
        while time.monotonic() < deadline_s and not service.restarts:
            with contextlib.suppress(grpc.FutureTimeoutError):
                grpc.channel_ready_future(channel).result(timeout=0.5)
                return
    raise StackError(f"the predictor service did not start: see {log_file}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
