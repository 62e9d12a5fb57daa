"""A load as a whole: its processes, from before their first step to their last report."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import IO, Any

import grpc

from sidecar.cli.load.options import Gap, LoadOptions
from sidecar.cli.load.tally import Tally, result
from sidecar.dial import dialled
from trail.v1 import predictor_pb2, predictor_pb2_grpc

CONNECT_S = 30.0
_LOOK_S = 0.1
_END_S = 15.0


class LoadError(RuntimeError):
    """The load cannot run; the text is one line for whoever asked for it."""


class Load:
    """Engines under way, in processes of their own. Use as a context manager: at its end they are gone."""

    def __init__(self, options: LoadOptions) -> None:
        self.options = options
        self._tallies = [Tally() for _ in range(options.processes)]
        self._processes: list[subprocess.Popen[str]] = []
        self._readers: list[threading.Thread] = []

    def __enter__(self) -> Load:
        told = json.dumps(asdict(self.options))
        for number, tally in enumerate(self._tallies):
            command = [sys.executable, "-m", "sidecar.cli.load.worker", told, str(number)]
            # A session of its own: Ctrl-C is for this process, which asks the others for their last report.
            process = subprocess.Popen(  # noqa: S603 - our own module
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
            )
            self._processes.append(process)
            reader = threading.Thread(target=_read, args=(process.stdout, tally), daemon=True)
            reader.start()
            self._readers.append(reader)
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def connected(self) -> int:
        """Engines that have both streams open."""
        return sum(tally.connected for tally in self._tallies)

    @property
    def gaps(self) -> list[Gap]:
        """Of all engines, those that have ended."""
        return sorted(gap for tally in self._tallies for gap in tally.gaps)

    def connect(self) -> int:
        """Waits until all engines are connected, or some time is over; how many are. Raises LoadError."""
        end_s = time.monotonic() + CONNECT_S
        while self.connected < self.options.engines and time.monotonic() < end_s:
            self.check()
            time.sleep(_LOOK_S)
        return self.connected

    def begin(self) -> None:
        """From here on it counts."""
        for tally in self._tallies:
            tally.begin()

    def during(self, seconds: float, tick: Callable[[float], None] | None = None) -> None:
        """Lets time pass; `tick` is told how much has. Raises LoadError where a process died."""
        begun_s = time.monotonic()
        while (passed_s := time.monotonic() - begun_s) < seconds:
            self.check()
            if tick is not None:
                tick(passed_s)
            time.sleep(min(_LOOK_S, seconds - passed_s))

    def check(self) -> None:
        """Raises LoadError where a process died."""
        for process in self._processes:
            if process.poll() is not None:
                raise LoadError(f"a process of the load ended (exit status {process.returncode}); see above")

    def end(self) -> None:
        """Has all processes make their last report and end."""
        for process in self._processes:
            with contextlib.suppress(OSError):
                process.stdin.close()  # type: ignore[union-attr]
        for process in self._processes:
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for reader in self._readers:
            reader.join()

    def result(self) -> dict[str, Any]:
        """What was measured so far."""
        options = self.options
        what = {name: getattr(options, name) for name in ("engines", "requests", "waiting", "dim", "step_ms")}
        return {**what, "engines_connected": self.connected, **result(self._tallies)}


def prepared(options: LoadOptions) -> LoadOptions:
    """The options with what the predictor says of its model. Raises LoadError where it is not there, or has another
    width."""
    try:
        with dialled(options.predictor) as channel:
            grpc.channel_ready_future(channel).result(timeout=10)
            stub = predictor_pb2_grpc.PredictorServiceStub(channel)
            model = stub.GetModel(predictor_pb2.GetModelRequest(name=options.model), timeout=10).model
    except grpc.FutureTimeoutError:
        raise LoadError(
            f"no predictor service at {options.predictor}: start one (`trail up`) or give --predictor"
        ) from None
    except grpc.RpcError as error:
        raise LoadError(f"predictor service at {options.predictor}: {error.details()}") from None
    if options.dim in (0, model.dim):
        return replace(options, dim=model.dim)
    if options.dim == model.projection.dim:
        return replace(options, projection=model.projection.id)
    projected = f", or {model.projection.dim} projected" if model.projection.dim else ""
    raise LoadError(f"--dim {options.dim}: model {model.name!r} reads rows of {model.dim} values{projected}")


def default_processes(engines: int) -> int:
    """Half of the cores: the services need the others, where they are on this machine."""
    return max(1, min(engines, len(os.sched_getaffinity(0)) // 2))


def _read(lines: IO[str] | None, tally: Tally) -> None:
    for line in lines or ():
        tally.report(json.loads(line))
