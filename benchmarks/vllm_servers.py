"""Two servers of one model, `vllm serve` and `trail serve`, as processes: both live at once and are used in turn."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from benchmarks.gpu_engines import UTILISATION, prepare_environment
from benchmarks.served_step import free_ports
from sidecar.cli.serve import stock_command
from sidecar.cli.stack import running_stack

START_TIMEOUT_S = 400.0
POLL_S = 0.2
STOP_TIMEOUT_S = 20.0
LOG_TAIL_LINES = 15
STOCK, TRAIL = "stock", "trail"


class ServerError(RuntimeError):
    """A server did not start or does not answer; the text says where its log is."""


@dataclass(frozen=True, slots=True)
class Server:
    """One of the two; `engine_id` is its name at the services, empty for stock."""

    name: str
    port: int
    process: "subprocess.Popen[bytes]"
    log: Path
    engine_id: str = ""

    def forget_prefixes(self) -> None:
        """Empties the prefix cache, so that no run profits from the one before."""
        self._ask("/reset_prefix_cache", b"")

    def preemptions(self) -> int:
        """As vLLM itself counts them, since it started."""
        lines = self._ask("/metrics").splitlines()
        return int(sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_preemptions_total")))

    def healthy(self) -> bool:
        """Whether it serves.

        Raises ServerError where the process has ended.
        """
        if self.process.poll() is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
            raise ServerError(f"{self.name} ended with status {self.process.returncode}; {self.log} ends with\n{tail}")
        with contextlib.suppress(OSError, HTTPException):
            self._ask("/health", timeout_s=2.0)
            return True
        return False

    def _ask(self, path: str, body: bytes | None = None, timeout_s: float = 30.0) -> str:
        url = f"http://127.0.0.1:{self.port}{path}"
        with urllib.request.urlopen(url, body, timeout_s) as answer:  # noqa: S310 - our own server
            return str(answer.read().decode())


@dataclass(frozen=True, slots=True)
class ServerShape:
    """What both are given."""

    llm: Path
    slots: int
    model_tokens: int
    step_tokens: int
    kv_bytes: int
    more: Sequence[str] = ()

    def flags(self, on_cpu: bool) -> list[str]:
        """Of `vllm serve`, but for the port."""
        found = [
            "--max-num-seqs", str(self.slots), "--max-model-len", str(self.model_tokens),
            "--max-num-batched-tokens", str(self.step_tokens), "--kv-cache-memory-bytes", str(self.kv_bytes),
            "--gpu-memory-utilization", str(UTILISATION), "--seed", "0", "--generation-config", "vllm",
            "--disable-uvicorn-access-log", "--host", "127.0.0.1",
        ]  # fmt: skip
        if on_cpu:
            # vLLM on CPU cannot rewind the generator of a seeded request whose prefill is chunked.
            found += ["--enforce-eager", "--no-async-scheduling", "--no-enable-chunked-prefill"]
        return [*found, *self.more]


@dataclass(frozen=True, slots=True)
class Servers:
    """Both, and the flags that both were given."""

    stock: Server
    trail: Server
    flags: Sequence[str]


@contextlib.contextmanager
def running(shape: ServerShape, logs: Path, *, one_by_one: bool = False) -> Iterator[Servers]:
    """Starts store, services and both servers, each with a log in `logs`; ends them all.

    Raises:
        ServerError: one did not start.
        StackError: a service did not.
    """
    on_cpu = prepare_environment()
    # For /reset_prefix_cache.
    os.environ["VLLM_SERVER_DEV_MODE"] = "1"
    logs.mkdir(parents=True, exist_ok=True)
    predictor_port, scheduler_port, stock_port, trail_port = free_ports(4)
    engine_id, flags = f"bench-serve-{os.getpid()}", shape.flags(on_cpu)
    with contextlib.ExitStack() as parts:
        stack = parts.enter_context(running_stack(
            predictor_port=predictor_port, scheduler_port=scheduler_port, log_file=logs / "services.log"
        ))  # fmt: skip
        attached = [
            sys.executable, "-m", "sidecar.cli.main", "serve", str(shape.llm), "--engine-id", engine_id,
            "--predictor", stack.predictor, "--scheduler", stack.scheduler,
        ]  # fmt: skip
        begun_s = time.monotonic()
        started = []
        for name, command, port in (
            (STOCK, stock_command(str(shape.llm)), stock_port),
            (TRAIL, attached, trail_port),
        ):
            log = logs / f"{name}.log"
            process = parts.enter_context(_process([*command, *flags, "--port", str(port)], log))
            server = Server(name, port, process, log, engine_id if name == TRAIL else "")
            started.append(server)
            if one_by_one:
                _await_healthy([server], begun_s)
        _await_healthy(started, begun_s)
        print(f"both servers are up after {time.monotonic() - begun_s:.0f} s", file=sys.stderr, flush=True)
        stock, trail = started
        yield Servers(stock, trail, flags)


def _await_healthy(servers: Sequence[Server], begun_s: float) -> None:
    waiting = list(servers)
    while waiting := [server for server in waiting if not server.healthy()]:
        if time.monotonic() > begun_s + START_TIMEOUT_S:
            logs = ", ".join(str(server.log) for server in waiting)
            raise ServerError(f"not ready in {START_TIMEOUT_S:.0f} s: see {logs}")
        time.sleep(POLL_S)


@contextlib.contextmanager
def _process(command: Sequence[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """In a session of its own: Ctrl-C is for us, and at the end a signal reaches all that it started."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)
