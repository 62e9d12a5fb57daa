"""The engines of the demo: two vLLM servers alike, one with the adapter attached."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from sidecar.cli.serve import stock_command

SERVED_NAME = "smollm2"
START_TIMEOUT_S = 240.0


class EngineError(RuntimeError):
    """An engine did not start; the text says where its log is."""


@dataclass(frozen=True, slots=True)
class Cores:
    """How the machine is shared: the engine's compute, and everything else. The same in every arm."""

    engine: str
    rest: frozenset[int]

    def share(self) -> None:
        """Keeps this process and all its children off the engine's cores, but for vLLM's workers."""
        for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                if process.name().startswith("VLLM::Worker"):
                    continue
                for thread in process.threads():
                    os.sched_setaffinity(thread.id, self.rest)


def share_cores() -> Cores | None:
    """The last core for the services and clients, the others for the engine; None on a single core."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return None
    return Cores(",".join(map(str, cores[:-1])), frozenset(cores[-1:]))


@dataclass(frozen=True, slots=True)
class Server:
    """A running OpenAI-compatible server."""

    url: str
    process_id: int

    def preemptions(self) -> int:
        """As vLLM itself counts them, since it started."""
        text = httpx.get(f"{self.url}/metrics", timeout=30).text
        families = text_string_to_metric_families(text)
        return int(sum(s.value for f in families for s in f.samples if s.name == "vllm:num_preemptions_total"))

    def forget_prefixes(self) -> None:
        """Empties the prefix cache, so that no arm profits from the one before."""
        httpx.post(f"{self.url}/reset_prefix_cache", timeout=30).raise_for_status()


def engine_flags(slots: int, port: int) -> list[str]:
    """Flags of ``vllm serve`` that both engines have."""
    return [
        "--dtype", "float32", "--enforce-eager", "--max-num-seqs", str(slots), "--max-num-batched-tokens", "1024",
        "--max-model-len", "1024", "--block-size", "32", "--seed", "0", "--served-model-name", SERVED_NAME,
        "--host", "127.0.0.1", "--port", str(port), "--disable-uvicorn-access-log", "--generation-config", "vllm",
        # vLLM 0.32 on CPU cannot rewind the generator of a seeded request whose prefill is chunked: it dies.
        "--no-enable-chunked-prefill",
    ]  # fmt: skip


@contextlib.contextmanager
def stock_engine(model: Path, slots: int, cores: Cores | None, log: Path) -> Iterator[Server]:
    """vLLM as it is."""
    port = free_port()
    command = [*stock_command(str(model)), *engine_flags(slots, port)]
    with _server(command, port, cores, log) as server:
        yield server


@contextlib.contextmanager
def attached_engine(
    model: Path,
    slots: int,
    cores: Cores | None,
    log: Path,
    engine_id: str,
    predictor: str,
    scheduler: str,
    flags: Sequence[str] = (),
) -> Iterator[Server]:
    """The same through ``trail serve``, with further ``flags`` of it."""
    port = free_port()
    trail = ["--engine-id", engine_id, "--predictor", predictor, "--scheduler", scheduler]
    command = [
        sys.executable,
        "-m",
        "sidecar.cli.main",
        "serve",
        str(model),
        *trail,
        *flags,
        *engine_flags(slots, port),
    ]
    with _server(command, port, cores, log) as server:
        yield server


@contextlib.contextmanager
def _server(command: list[str], port: int, cores: Cores | None, log: Path) -> Iterator[Server]:
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "INFO",
        "VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_USE_V2_MODEL_RUNNER": "0",
    }  # fmt: skip
    if cores is not None:
        environment["VLLM_CPU_OMP_THREADS_BIND"] = cores.engine
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - vLLM and ourselves
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _await_ready(process, url, log)
            yield Server(url, process.pid)
        finally:
            _end(process)


def _await_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            raise EngineError(f"the engine ended with status {process.returncode} while starting: see {log}")
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", timeout=2).is_success:
                return
        time.sleep(0.2)
    raise EngineError(f"the engine was not ready in {START_TIMEOUT_S:.0f} s: see {log}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the whole group, SIGKILL to what is left of it 20 s later."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
