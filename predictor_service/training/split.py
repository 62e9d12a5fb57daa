"""Cuts the classifier of a written artefact behind its first product, so that engines can send projected rows."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from predictor_service.artefact import MANIFEST, load
from predictor_service.training.export import projected_files
from predictor_service.training.networks import Array, Dense
from sidecar.projection import id_of


def split(folder: Path) -> str:
    """Writes projection.npz and head.onnx from the weights in model.onnx, then the manifest; the projection's id.

    Raises ValueError where the artefact is bad, training did not write its graph, or float16 is too coarse for
    projected rows.
    """
    load(folder)
    fields, files = projected_files(network_of(onnx.load(folder / "model.onnx")))
    if not files:
        raise ValueError(f"{folder}: projected rows would not say the same")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"] |= {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    at = list(manifest).index("dtype") + 1
    items = [item for item in manifest.items() if item[0] not in fields]
    (folder / MANIFEST).write_text(json.dumps(dict([*items[:at], *fields.items(), *items[at:]]), indent=1) + "\n")
    load(folder)
    return id_of(files["projection.npz"])


def network_of(model: onnx.ModelProto) -> Dense:
    """The network that `export.states_graph` wrote. Raises ValueError for any other graph."""
    found = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    try:
        layers: list[tuple[Array, Array]] = []
        while f"weight{len(layers)}.half" in found:
            weight, bias = found[f"weight{len(layers)}.half"], found[f"bias{len(layers)}"]
            layers.append((weight.astype(np.float32), bias))
        network = Dense(found["mean"], found["scale"], tuple(layers))
    except KeyError as error:
        raise ValueError(f"model.onnx: not a graph of `trail train`: it has no {error}") from None
    if not layers:
        raise ValueError("model.onnx: not a graph of `trail train`: it has no layers")
    return network
