"""Makes real, tiny model artefacts: random networks in ONNX with everything that a manifest must say."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

EDGES = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256]
REPRESENTATIVES = [0.5, 1.5, 3, 6, 12, 24, 48, 96, 190, 400]


def make(
    folder: Path,
    *,
    name: str = "tiny",
    layers: tuple[int, ...] = (3,),
    hidden_size: int = 16,
    prompt_buckets: int = 8,
    seed: int = 0,
) -> Path:
    """Writes an artefact into `folder` (made if need be) and returns it. Ten log-spaced bins."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    dim = len(layers) * hidden_size
    contents = {
        "model.onnx": _state_model(rng, dim).SerializeToString(),
        "prompt.onnx": _prompt_model(rng, prompt_buckets + 1).SerializeToString(),
    }
    for file, content in contents.items():
        (folder / file).write_bytes(content)
    manifest = {
        "format": 1,
        "name": name,
        "served_model": "random",
        "layers": list(layers),
        "hidden_size": hidden_size,
        "dim": dim,
        "dtype": "float16",
        "edges": EDGES,
        "representatives": REPRESENTATIVES,
        "rates": [*(1.0 / np.diff(EDGES)), 1.0 / 144.0],
        "prior": [1.0 / len(EDGES)] * len(EDGES),
        "tau": 0.5,
        "floor": 1e-4,
        "prompt_buckets": prompt_buckets,
        "training": {},
        "metrics": {},
        "files": {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()},
        "canary": _canary(contents["model.onnx"], dim),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def edit(folder: Path, **changes: Any) -> None:
    """Overwrites top-level fields of the manifest."""
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _canary(model: bytes, dim: int) -> dict[str, Any]:
    hidden = np.random.default_rng(7).standard_normal((2, dim)).astype(np.float16)
    ages = np.array([0, 5], dtype=np.float32)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(["probabilities"], {"hidden": hidden, "age": ages})
    return {
        "hidden_seed": 7,
        "rows": 2,
        "ages": ages.tolist(),
        "probabilities": np.asarray(probabilities).tolist(),
    }


def _state_model(rng: np.random.Generator, dim: int) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["hidden"], ["hidden32"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["age", "last_axis"], ["age_column"]),
        helper.make_node("Mul", ["age_column", "age_scale"], ["age_scaled"]),
        helper.make_node("Concat", ["hidden32", "age_scaled"], ["input"], axis=1),
    ]
    constants = {
        "last_axis": np.array([1], dtype=np.int64),
        "age_scale": np.array([0.01], dtype=np.float32),
    }
    inputs = [
        helper.make_tensor_value_info("hidden", TensorProto.FLOAT16, ["n", dim]),
        helper.make_tensor_value_info("age", TensorProto.FLOAT, ["n"]),
    ]
    return _mlp(rng, inputs, nodes, constants, dim + 1)


def _prompt_model(rng: np.random.Generator, width: int) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", width])]
    return _mlp(rng, inputs, [helper.make_node("Identity", ["features"], ["input"])], {}, width)


def _mlp(
    rng: np.random.Generator,
    inputs: list[onnx.ValueInfoProto],
    nodes: list[onnx.NodeProto],
    constants: dict[str, Any],
    width: int,
) -> onnx.ModelProto:
    """`input` [n, width] through one hidden layer to `probabilities` [n, bins]."""
    weights = constants | {
        "w1": rng.standard_normal((width, 12)).astype(np.float32) / np.float32(np.sqrt(width)),
        "w2": rng.standard_normal((12, len(EDGES))).astype(np.float32),
    }
    nodes = [
        *nodes,
        helper.make_node("MatMul", ["input", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["a"]),
        helper.make_node("MatMul", ["a", "w2"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", len(EDGES)])
    initialisers = [numpy_helper.from_array(value, key) for key, value in weights.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, [output], initialisers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
