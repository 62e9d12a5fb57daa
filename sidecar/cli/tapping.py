"""What an engine taps and sends: as the predictor's artefact wants it, and as the command line says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import grpc

from engine_adapter.agent.settings import AgentSettings
from sidecar import projection, targets
from sidecar.dial import DialError
from sidecar.settings import load
from trail.v1 import predictor_pb2, predictor_pb2_grpc

DTYPE_NAMES = {1: "float16", 2: "bfloat16", 3: "float32"}
RowKind = Literal["hidden", "projected"]
WORTH_PROJECTING = 4
"""Projecting takes some 0.1 ms of the engine's thread a step: by default only where rows shrink at least so much."""


class ServeError(RuntimeError):
    """The engine cannot be started; the text says what to change."""


def tap_settings(model: str, predictor: str, artefact: str, layers: str, wait_s: float) -> tuple[list[int], str]:
    """Which layers to tap, and how their vectors travel."""
    if layers:
        try:
            return [int(layer) for layer in layers.split(",")], "float16"
        except ValueError:
            raise ServeError(f"--layers {layers!r}: give numbers, as 12,18") from None
    with _predictor(predictor, wait_s) as stub:
        found = stub.GetModel(predictor_pb2.GetModelRequest(name=artefact), timeout=wait_s).model
    _check_width(model, found)
    return list(found.layers), DTYPE_NAMES.get(found.dtype, "float16")


def fetch_projection(predictor: str, artefact: str, layers: str, rows: RowKind | None, wait_s: float) -> bytes | None:
    """The file of the artefact's projection; None where the engine sends hidden states.

    Args:
        layers: of the command line; where they are given, nobody is asked.
        rows: what to send; None: projected rows where the artefact reads them and they are much shorter.

    Raises:
        ServeError: projected rows are wanted and cannot be had.
    """
    if layers and rows == "projected":
        raise ServeError("--rows projected: an artefact projects its own layers: leave --layers out")
    if layers or rows == "hidden":
        return None
    with _predictor(predictor, wait_s) as stub:
        found = stub.GetModel(predictor_pb2.GetModelRequest(name=artefact), timeout=wait_s).model
        if rows is None and found.dim < WORTH_PROJECTING * found.projection.dim:
            return None
        if not found.HasField("projection"):
            if rows is None:
                return None
            raise ServeError(
                f"--rows projected: artefact {found.name!r} has no projection: give it one (`trail train split`), "
                "or give --rows hidden"
            )
        parts = stub.GetProjection(predictor_pb2.GetProjectionRequest(name=found.name), timeout=wait_s)
        content = b"".join(part.content for part in parts)
    if projection.id_of(content) != found.projection.id:
        raise ServeError(f"artefact {found.name!r} was replaced while its projection was being fetched: try again")
    return content


@contextmanager
def _predictor(address: str, wait_s: float) -> Iterator[predictor_pb2_grpc.PredictorServiceStub]:
    """A stub of the service once it is there; what goes wrong with it becomes a ServeError."""
    try:
        target = targets.target(address)
    except ValueError as error:
        raise ServeError(f"--predictor: {error}") from None
    try:
        # As the agent will dial it.
        with load(AgentSettings, []).credentials.channel(target) as channel:
            grpc.channel_ready_future(channel).result(timeout=wait_s)
            yield predictor_pb2_grpc.PredictorServiceStub(channel)
    except grpc.FutureTimeoutError:
        raise ServeError(
            f"no predictor service at {address} after {wait_s:.0f} s: start one (`trail up`), give --predictor, "
            "or give --layers to start without asking"
        ) from None
    except grpc.RpcError as error:
        raise ServeError(f"predictor service at {address}: {error.details()}") from None
    except DialError as error:
        raise ServeError(str(error)) from None


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
