"""The parts of a running system as processes that a test can kill and start again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from engine_adapter.paths import engine_paths
from sidecar.cli.demo.engine import Server, attached_engine, free_port, share_cores
from tests.conftest import Valkey, start_valkey
from tests.patience import PATIENCE_S

ENGINE_ID = f"e2e-{os.getpid()}"


def until(condition: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Waits for ``condition``; fails with ``what`` after ``timeout_s``."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not in {timeout_s:.0f} s: {what}; the agent's numbers: {statistics()}"
        time.sleep(0.05)


@dataclass
class Service:
    """The predictor or the scheduler service."""

    name: str
    redis_url: str
    log: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", f"{self.name}_service.main", "--port", str(self.port)]
        with self.log.open("ab") as output:
            self.process = subprocess.Popen([*command, "--redis-url", self.redis_url], stdout=output, stderr=output)
        until(self.serving, f"{self.name} serves")

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def serving(self) -> bool:
        with grpc.insecure_channel(self.address) as channel, contextlib.suppress(grpc.RpcError):
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=1)
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
        return False


@dataclass
class Store:
    """The embedded Valkey; it comes back empty."""

    valkey: Valkey

    def start(self) -> None:
        self.valkey.restart_empty()

    def kill(self) -> None:
        self.valkey.stop()


@dataclass
class Agent:
    """The agent, which ``trail serve`` starts again by itself."""

    def start(self) -> None:
        pass

    def kill(self) -> None:
        os.kill(statistics()["process_id"], signal.SIGKILL)


def statistics() -> dict[str, Any]:
    """What the agent wrote within the last second or two."""
    found: dict[str, Any] = json.loads((engine_paths(ENGINE_ID).folder / "statistics.json").read_text())
    return found


@dataclass
class System:
    """Everything, with a real vLLM served through ``trail serve``."""

    engine: Server
    parts: dict[str, Service | Store | Agent]

    @property
    def predictor(self) -> Service:
        part = self.parts["predictor"]
        assert isinstance(part, Service)
        return part

    @property
    def scheduler(self) -> Service:
        part = self.parts["scheduler"]
        assert isinstance(part, Service)
        return part


@contextlib.contextmanager
def running_system(model: Path, folder: Path, slots: int) -> Iterator[System]:
    store = start_valkey(folder)
    services = [Service(name, store.url, folder / f"{name}.log") for name in ("predictor", "scheduler")]
    predictor, scheduler = services
    try:
        for service in services:
            service.start()
        with attached_engine(
            model, slots, share_cores(), folder / "engine.log", ENGINE_ID, predictor.address, scheduler.address
        ) as engine:
            yield System(
                engine,
                {"predictor": predictor, "scheduler": scheduler, "store": Store(store), "agent": Agent()},
            )
    finally:
        for service in services:
            if service.process is not None:
                service.process.kill()
        if store.server.is_running():
            store.stop()
