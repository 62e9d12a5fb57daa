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

WIDTH = 512
OPSET = 17


def make(folder: Path, like: Path, *, dim: int, seed: int = 0, half: bool = False) -> Path:
    """Writes an artefact named `dim-<dim>` (`-half`), whose other parts are those of the artefact `like`."""
    shutil.copytree(like, folder)
    manifest = json.loads((like / "manifest.json").read_text())
    content = mlp(dim, len(manifest["edges"]), seed=seed, half=half)
    (folder / "model.onnx").write_bytes(content)
    rows, ages = manifest["canary"]["rows"], manifest["canary"]["ages"]
    hidden = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float16)
    answer = Graph(content, threads=1, providers=[CPU]).run(hidden=hidden, age=np.array(ages, dtype=np.float32))
    changes = {
        "name": f"dim-{dim}-half" if half else f"dim-{dim}",
        "served_model": "random",
        "layers": [0],
        "hidden_size": dim,
        "dim": dim,
        "files": manifest["files"] | {"model.onnx": hashlib.sha256(content).hexdigest()},
        "canary": {"hidden_seed": seed, "rows": rows, "ages": ages, "probabilities": answer.tolist()},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))
    return folder


def mlp(dim: int, bins: int, *, seed: int = 0, half: bool = False) -> bytes:
    """hidden float16 [N, dim] and age float32 [N] -> probabilities float32 [N, bins], with one layer of 512.

    The operators are those of a trained artefact: rows are widened to float32 and weights stored as halves.
    With `half` all but the softmax is computed in float16.
    """
    rng = np.random.default_rng(seed)
    graph = _Graph(np.dtype(np.float16 if half else np.float32))
    graph.node("Add", "age", graph.constant("one", np.ones(1, np.float32)), name="age.1")
    graph.node("Unsqueeze", graph.node("Log", "age.1", name="age.log"), graph.axis(), name="age.column")
    parts = ["hidden", graph.cast("age.column")] if half else [graph.cast("hidden"), "age.column"]
    x = graph.node("Concat", *parts, name="features", axis=1)
    x = graph.node("Sub", x, graph.number("mean", rng.normal(0, 0.1, dim + 1)), name="centred")
    x = graph.node("Mul", x, graph.number("scale", rng.uniform(0.5, 1.5, dim + 1)), name="scaled")
    x = graph.node("Clip", x, graph.number("lowest", np.array(-10)), graph.number("highest", np.array(10)), name="cut")
    x = graph.node("MatMul", x, graph.weight("w0", rng.normal(0, (dim + 1) ** -0.5, (dim + 1, WIDTH))), name="product0")
    x = graph.node("Add", x, graph.number("b0", rng.normal(0, 0.1, WIDTH)), name="sum0")
    x = graph.node("Relu", x, name="active")
    x = graph.node("MatMul", x, graph.weight("w1", rng.normal(0, 2 * WIDTH**-0.5, (WIDTH, bins))), name="product1")
    x = graph.node("Add", x, graph.number("b1", rng.normal(0, 0.1, bins)), name="sum1")
    x = graph.node("Cast", x, name="logits", to=TensorProto.FLOAT) if half else x
    graph.node("Softmax", x, name="probabilities", axis=1)
    return graph.model(dim, bins)


class _Graph:
    """Nodes and constants of one ONNX graph that computes in `number_type`."""

    def __init__(self, number_type: np.dtype[Any]) -> None:
        self._type = number_type
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def node(self, operator: str, *inputs: str, name: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self._constants.append(numpy_helper.from_array(value, name))
        return name

    def number(self, name: str, value: NDArray[Any]) -> str:
        return self.constant(name, value.astype(self._type))

    def axis(self) -> str:
        return self.constant("axis", np.array([1]))

    def cast(self, name: str) -> str:
        return self.node("Cast", name, name=f"{name}.cast", to=helper.np_dtype_to_tensor_dtype(self._type))

    def weight(self, name: str, value: NDArray[Any]) -> str:
        stored = self.constant(f"{name}.half", value.astype(np.float16))
        return stored if self._type == np.float16 else self.cast(stored)

    def model(self, dim: int, bins: int) -> bytes:
        inputs = [
            helper.make_tensor_value_info("hidden", TensorProto.FLOAT16, ["N", dim]),
            helper.make_tensor_value_info("age", TensorProto.FLOAT, ["N"]),
        ]
        output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", bins])
        graph = helper.make_graph(self._nodes, "length", inputs, [output], self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="trail")
        model.ir_version = 8
        onnx.checker.check_model(model, full_check=True)
        content: bytes = model.SerializeToString()
        return content
