"""Predictors whose models are bad."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests import artefacts
from tests.chaos.engine import DIM
from tests.chaos.fault import Began, Plans, fault
from tests.chaos.processes import until
from tests.chaos.system import System


@fault(Plans.MAY_PAUSE, lasts_s=3)
def poisoned_model(system: System, began: Began) -> Iterator[None]:
    """It passes its own canary, and says NaN of everything else: what is left are predictions by prompts."""
    bad = artefacts.make(system.folder / f"poisoned-{time.monotonic_ns()}", hidden_size=DIM)
    _poison(bad)
    good = artefacts.make(system.folder / f"good-{time.monotonic_ns()}", hidden_size=DIM)
    _deliver(system, bad)
    began.now()
    yield
    _deliver(system, good)


@fault(Plans.GO_ON, lasts_s=3)
def damaged_artefact(system: System, began: Began) -> Iterator[None]:
    """Half of a file is missing: it is refused, and what served before goes on."""
    path = system.model_folder / "tiny" / "model.onnx"
    whole, refused = path.read_bytes(), system.predictor.logged("bad artefact")
    path.write_bytes(whole[: len(whole) // 2])
    until(lambda: system.predictor.logged("bad artefact") > refused, "it was refused")
    yield
    path.write_bytes(whole)


def _deliver(system: System, artefact: Path) -> None:
    """In place of the one that serves, its manifest last; returns once it does."""
    taken = system.predictor.logged("artefact replaced")
    for path in sorted(artefact.iterdir(), key=lambda path: path.name == "manifest.json"):
        shutil.copy(path, system.model_folder / "tiny" / path.name)
    until(lambda: system.predictor.logged("artefact replaced") > taken, "the artefact was taken")


def _poison(folder: Path) -> None:
    """Rows whose first value is not that of a canary's become NaN."""
    manifest = json.loads((folder / "manifest.json").read_text())
    canary = manifest["canary"]
    rows = np.random.default_rng(canary["hidden_seed"]).standard_normal((canary["rows"], manifest["dim"]))
    model = onnx.load(str(folder / "model.onnx"))
    (result,) = (node for node in model.graph.node if node.op_type == "Softmax")
    result.output[0] = "healthy"
    constants = {
        "first": np.array([0], np.int64),
        "canary": rows.astype(np.float16)[:, 0].astype(np.float32),
        "nan": np.array(np.nan, np.float32),
    }
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    model.graph.node.extend(
        [
            helper.make_node("Gather", ["hidden32", "first"], ["firsts"], axis=1),
            helper.make_node("Equal", ["firsts", "canary"], ["each"]),
            helper.make_node("Cast", ["each"], ["each_float"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMax", ["each_float"], ["any_float"], axes=[1], keepdims=1),
            helper.make_node("Cast", ["any_float"], ["known"], to=TensorProto.BOOL),
            helper.make_node("Where", ["known", "healthy", "nan"], ["probabilities"]),
        ]
    )
    content = model.SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    artefacts.edit(folder, files=manifest["files"] | {"model.onnx": artefacts.sha256(content)})
