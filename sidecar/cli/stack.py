"""The store and both services as child processes, kept alive."""

from __future__ import annotations

import contextlib
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import grpc
import redis
from grpc_health.v1 import health_pb2, health_pb2_grpc

from sidecar.dial import dialled
from sidecar.supervise import Supervisor
from trail.v1 import scheduler_pb2, scheduler_pb2_grpc

VALKEY = [sys.executable, "-m", "sidecar.embedded_valkey"]
STORE_LIVES = 2
"""After so many it will not start. The first may have found a machine that stood still."""


class StackError(RuntimeError):
    """A part did not start; the text says which and what to look at."""


@dataclass(frozen=True, slots=True)
class Stack:
    """Where the parts listen."""

    redis_url: str
    predictor: str
    scheduler: str

    def set_policy(self, engine_id: str, policy: scheduler_pb2.PolicySettings) -> None:
        """From the next plan on.

        Raises:
            grpc.RpcError: the scheduler does not take it, or has not answered in ten seconds.
        """
        with dialled(self.scheduler) as channel:
            scheduler_pb2_grpc.SchedulerAdminServiceStub(channel).SetPolicy(
                scheduler_pb2.SetPolicyRequest(engine_id=engine_id, policy=policy), timeout=10
            )


@contextlib.contextmanager
def embedded_valkey(log: IO[bytes] | None = None, start_timeout_s: float = 30.0) -> Iterator[str]:
    """A Valkey of our own on a Unix socket, kept alive and gone with us; yields its URL.

    Raises:
        StackError: it cannot start, with its last word, or was not ready in ``start_timeout_s``.
    """
    # A short path: Unix sockets allow about 100 characters.
    with tempfile.TemporaryDirectory(prefix="trail-") as folder:
        socket_path = Path(folder) / "valkey.sock"
        with (
            contextlib.nullcontext(log) if log is not None else (Path(folder) / "store.log").open("ab") as output,
            Supervisor("store", [*VALKEY, str(socket_path)], log=output) as store,
            redis.Redis(unix_socket_path=str(socket_path)) as client,
        ):
            deadline_s = time.monotonic() + start_timeout_s
            while not _answers(client):
                if store.restarts >= STORE_LIVES:
                    why = _last_line(Path(output.name)) or store.last_end
                    raise StackError(f"the embedded Valkey does not start: {why}")
                if time.monotonic() > deadline_s:
                    raise StackError(f"the embedded Valkey was not ready in {start_timeout_s:.0f} s")
                time.sleep(0.05)
            yield f"unix://{socket_path}"


def _last_line(file: Path) -> str:
    lines = file.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


@contextlib.contextmanager
def running_stack(
    host: str = "127.0.0.1",
    predictor_port: int = 50061,
    scheduler_port: int = 50062,
    redis_url: str | None = None,
    model_dir: Path | None = None,
    *,
    log_file: Path | None = None,
    start_timeout_s: float = 60.0,
    metrics_ports: tuple[int, int] = (0, 0),
) -> Iterator[Stack]:
    """Runs store, predictor and scheduler, ready when it yields.

    Args:
        redis_url: of a store that runs already; default: an embedded Valkey.
        log_file: where the services' logs go; default: standard error.
        metrics_ports: of the predictor's and the scheduler's Prometheus endpoints; 0: as their environment says.

    Raises:
        StackError: a port is taken, or a service was not ready in ``start_timeout_s``.
    """
    for port in (predictor_port, scheduler_port):
        _require_free(host, port)
    with contextlib.ExitStack() as parts:
        log = parts.enter_context(log_file.open("ab")) if log_file is not None else None
        url = redis_url or parts.enter_context(embedded_valkey(log))
        stack = Stack(url, f"{host}:{predictor_port}", f"{host}:{scheduler_port}")
        predictor = ["--port", str(predictor_port), "--host", host]
        if model_dir is not None:
            predictor += ["--model-dir", str(model_dir)]
        scheduler = ["--port", str(scheduler_port), "--host", host]
        services = []
        for name, flags, metrics_port in zip(
            ("predictor", "scheduler"), (predictor, scheduler), metrics_ports, strict=True
        ):
            flags += ["--metrics-port", str(metrics_port)] if metrics_port else []
            command = [sys.executable, "-m", f"{name}_service.main", *flags, "--exit-with-parent"]
            # It may hold a password, and others can read the flags of a process.
            environment = {f"TRAIL_{name.upper()}_REDIS_URL": url}
            services.append(parts.enter_context(Supervisor(name, command, environment, log)))
        for service, address in zip(services, (stack.predictor, stack.scheduler), strict=True):
            _await_ready(service, address, start_timeout_s, log_file)
        yield stack


def is_free(host: str, port: int) -> bool:
    """Whether we could listen there."""
    try:
        _require_free(host, port)
    except StackError:
        return False
    return True


def _require_free(host: str, port: int) -> None:
    """Otherwise the health of whoever has the port would pass for that of our service."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StackError(f"cannot listen on {host}:{port}: {error.strerror}") from None


def _await_ready(service: Supervisor, address: str, timeout_s: float, log_file: Path | None) -> None:
    deadline_s = time.monotonic() + timeout_s
    with dialled(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        while time.monotonic() < deadline_s:
            if service.restarts:
                break
            with contextlib.suppress(grpc.RpcError):
                answer = health.Check(health_pb2.HealthCheckRequest(), timeout=1.0)
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            time.sleep(0.05)
    where = f"see {log_file}" if log_file is not None else "its log is above"
    reason = "ended" if service.restarts else f"was not ready in {timeout_s:.0f} s"
    raise StackError(f"the {service.name} service at {address} {reason}; {where}")
