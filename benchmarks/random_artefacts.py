"""Artefacts of any width with random weights: what they cost is as real as a trained one's."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from predictor_service.classifier import CPU, Graph
from predictor_service.training import export
from predictor_service.training.networks import Dense

WIDTH = 512
OPSET = 17


def make(folder: Path, like: Path, *, dim: int, seed: int = 0, half: bool = False) -> Path:
    """Writes an artefact named `dim-<dim>` (`-half`), whose other parts are those of the artefact `like`.

    One layer of 512. Weights are stored as halves and computed with in float32, beside it in eight bits for CPUs and
    cut for projected rows; or, with `half`, all but the softmax is computed in float16.
    """
    shutil.copytree(like, folder)
    manifest = json.loads((like / "manifest.json").read_text())
    network = _network(dim, len(manifest["edges"]), seed)
    graphs = {"model.onnx": _in_float16(network) if half else export.states_graph(network)}
    if not half:
        graphs["model.int8.onnx"] = export.states_graph_int8(network)
    rows, ages = manifest["canary"]["rows"], manifest["canary"]["ages"]
    hidden = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float16)
    answers, hashes = {}, {"prompt.onnx": manifest["files"]["prompt.onnx"]}
    for name, model in graphs.items():
        content = model.SerializeToString()
        (folder / name).write_bytes(content)
        hashes[name] = hashlib.sha256(content).hexdigest()
        graph = Graph(content, threads=1, providers=[CPU])
        answers[name] = graph.run(hidden=hidden, age=np.array(ages, dtype=np.float32)).tolist()
    projected, files = ({}, {}) if half else export.projected_files(network)
    for name, content in files.items():
        (folder / name).write_bytes(content)
        hashes[name] = hashlib.sha256(content).hexdigest()
    changes = {
        "name": f"dim-{dim}-half" if half else f"dim-{dim}",
        "served_model": "random",
        "layers": [0],
        "hidden_size": dim,
        "dim": dim,
        "projected_dim": projected.get("projected_dim"),
        "files": hashes,
        "canary": {
            "hidden_seed": seed,
            "rows": rows,
            "ages": ages,
            "probabilities": answers["model.onnx"],
            "int8": answers.get("model.int8.onnx"),
        },
    }
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))
    return folder


def _network(dim: int, bins: int, seed: int) -> Dense:
    rng = np.random.default_rng(seed)
    mean, scale = rng.normal(0, 0.1, dim + 1), rng.uniform(0.5, 1.5, dim + 1)
    w0, b0 = rng.normal(0, (dim + 1) ** -0.5, (dim + 1, WIDTH)), rng.normal(0, 0.1, WIDTH)
    w1, b1 = rng.normal(0, 2 * WIDTH**-0.5, (WIDTH, bins)), rng.normal(0, 0.1, bins)
    arrays: list[NDArray[np.float32]] = [each.astype(np.float32) for each in (mean, scale, w0, b0, w1, b1)]
    return Dense(arrays[0], arrays[1], ((arrays[2], arrays[3]), (arrays[4], arrays[5])))


def _in_float16(network: Dense) -> onnx.ModelProto:
    """hidden float16 [N, dim], age float32 [N] -> probabilities float32 [N, bins], in float16 but for the softmax."""
    graph, ((w0, b0), (w1, b1)) = _Graph(), network.layers
    graph.node("Add", "age", graph.constant("one", np.ones(1, np.float32)), name="age.1")
    graph.node("Unsqueeze", graph.node("Log", "age.1", name="age.log"), graph.axis(), name="age.column")
    x = graph.node("Concat", "hidden", graph.cast("age.column"), name="features", axis=1)
    x = graph.node("Sub", x, graph.half("mean", network.mean), name="centred")
    x = graph.node("Mul", x, graph.half("scale", network.scale), name="scaled")
    x = graph.node("Clip", x, graph.half("lowest", np.array(-10)), graph.half("highest", np.array(10)), name="cut")
    x = graph.node("MatMul", x, graph.half("w0", w0), name="product0")
    x = graph.node("Add", x, graph.half("b0", b0), name="sum0")
    x = graph.node("Relu", x, name="active")
    x = graph.node("MatMul", x, graph.half("w1", w1), name="product1")
    x = graph.node("Add", x, graph.half("b1", b1), name="sum1")
    x = graph.node("Cast", x, name="logits", to=TensorProto.FLOAT)
    graph.node("Softmax", x, name="probabilities", axis=1)
    return graph.model(len(network.mean) - 1, len(b1))


class _Graph:
    """Nodes and constants of one ONNX graph."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def node(self, operator: str, *inputs: str, name: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self._constants.append(numpy_helper.from_array(value, name))
        return name

    def half(self, name: str, value: NDArray[Any]) -> str:
        return self.constant(name, value.astype(np.float16))

    def axis(self) -> str:
        return self.constant("axis", np.array([1]))

    def cast(self, name: str) -> str:
        return self.node("Cast", name, name=f"{name}.cast", to=TensorProto.FLOAT16)

    def model(self, dim: int, bins: int) -> onnx.ModelProto:
        inputs = [
            helper.make_tensor_value_info("hidden", TensorProto.FLOAT16, ["N", dim]),
            helper.make_tensor_value_info("age", TensorProto.FLOAT, ["N"]),
        ]
        output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", bins])
        graph = helper.make_graph(self._nodes, "length", inputs, [output], self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="trail")
        model.ir_version = 8
        onnx.checker.check_model(model, full_check=True)
        return model
