"""Writes a model artefact: its ONNX graphs and the manifest that the service checks them against."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import structlog
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from predictor_service.artefact import CANARY_TOLERANCE
from predictor_service.training.networks import Array, Dense
from predictor_service.training.refinement import Refinement
from sidecar.projection import Projection

OPSET = 17
LIMIT = 10.0
"""Standard deviations at which networks cut what they read."""
CANARY_SEED, CANARY_AGES = 20, (0.0, 100.0)
INT8_LIMIT = 6.0
"""Standard deviations from the mean; what lies beyond is cut."""
COMPARED_ROWS, INT8_DIFFERENCE = 64, 0.05
"""Rows on which graphs are compared, and how far a probability in eight bits may lie from float32's."""


@dataclass(frozen=True)
class Artefact:
    """Everything a model folder holds."""

    name: str
    served_model: str
    layers: tuple[int, ...]
    hidden_size: int
    states: Dense  # over the layers' values, then log1p(age)
    # The prompt stage: its fields in the manifest, and its files by name.
    prompt: Mapping[str, Any]
    prompt_files: Mapping[str, bytes]
    edges: NDArray[np.int64]
    representatives: NDArray[np.float64]
    refinement: Refinement
    interval_levels: tuple[float, float]
    training: Mapping[str, Any]
    metrics: Mapping[str, Any]


class _Graph:
    """Collects nodes and constants of one ONNX graph."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(self, op: str, *inputs: str, name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def halved(self, name: str, value: Array) -> str:
        """A float16 constant read as float32: half the bytes on disk, folded away when the session loads."""
        half = self.constant(f"{name}.half", value.astype(np.float16))
        return self.node("Cast", half, name=name, to=TensorProto.FLOAT)

    def age_column(self) -> str:
        """log(1 + age) [N, 1]."""
        past = self.node("Add", "age", self.constant("one", np.array([1], dtype=np.float32)), name="age.1")
        logarithm = self.node("Log", past, name="age.log")
        return self.node("Unsqueeze", logarithm, self.constant("axis", np.array([1])), name="age.column")

    def dense(self, features: str, dense: Dense) -> None:
        centred = self.node("Sub", features, self.constant("mean", dense.mean), name="centred")
        x = self.node("Mul", centred, self.constant("scale", dense.scale), name="scaled")
        x = self.node("Clip", x, *self.limits(), name="clipped")
        self.layers(self.node("MatMul", x, self.halved("weight0", dense.layers[0][0]), name="product0"), dense)

    def limits(self) -> list[str]:
        named = (("lowest", -LIMIT), ("highest", LIMIT))
        return [self.constant(name, np.array(value, dtype=np.float32)) for name, value in named]

    def age_product(self, dense: Dense) -> str:
        """What the age, the last of the features, adds to the first product."""
        mean, scale, weight = dense.mean[-1:], dense.scale[-1:], dense.layers[0][0][-1:]
        past = self.node("Sub", self.age_column(), self.constant("age.mean", mean), name="age.centred")
        past = self.node("Mul", past, self.constant("age.scale", scale), name="age.scaled")
        past = self.node("Clip", past, *self.limits(), name="age.clipped")
        return self.node("MatMul", past, self.halved("age.weight", weight), name="age.product")

    def layers(self, product: str, dense: Dense) -> None:
        """All that follows the first product."""
        x = self.node("Add", product, self.constant("bias0", dense.layers[0][1]), name="sum0")
        for i, (weight, bias) in enumerate(dense.layers[1:], start=1):
            x = self.node("Relu", x, name=f"active{i - 1}")
            x = self.node("MatMul", x, self.halved(f"weight{i}", weight), name=f"product{i}")
            x = self.node("Add", x, self.constant(f"bias{i}", bias), name=f"sum{i}")
        self.node("Softmax", x, name="probabilities", axis=1)

    def model(self, inputs: list[onnx.ValueInfoProto], bins: int) -> onnx.ModelProto:
        output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", bins])
        graph = helper.make_graph(self.nodes, "length", inputs, [output], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="trail")
        model.ir_version = 8
        onnx.checker.check_model(model, full_check=True)
        return model


def states_graph(dense: Dense) -> onnx.ModelProto:
    """hidden float16 [N, dim] and age float32 [N] -> probabilities float32 [N, bins] of remaining length."""
    graph, dim = _Graph(), len(dense.mean) - 1
    wide = graph.node("Cast", "hidden", name="hidden.wide", to=TensorProto.FLOAT)
    graph.dense(graph.node("Concat", wide, graph.age_column(), name="features", axis=1), dense)
    return graph.model(_states_inputs(dim), len(dense.layers[-1][1]))


def states_graph_int8(dense: Dense) -> onnx.ModelProto:
    """The same with the first product in integers: for CPUs, where it takes nearly all of the time.

    Standardised values become unsigned bytes, 127 steps to either side of 0 up to `INT8_LIMIT`; weights become signed
    ones, with one scale a column. The age, one value of a row, stays as it is.
    """
    graph, dim = _Graph(), len(dense.mean) - 1
    weight, step = dense.layers[0][0], INT8_LIMIT / 127
    scales = np.maximum(np.abs(weight[:dim]).max(axis=0), 1e-12) / 127
    wide = graph.node("Cast", "hidden", name="hidden.wide", to=TensorProto.FLOAT)
    # One pass over the values: y = scale * (x - mean) / sqrt(1).
    ones, zeros = np.ones(dim, dtype=np.float32), np.zeros(dim, dtype=np.float32)
    statistics = {"scale": dense.scale[:dim], "zeros": zeros, "mean": dense.mean[:dim], "ones": ones}
    names = [graph.constant(name, value) for name, value in statistics.items()]
    scaled = graph.node("BatchNormalization", wide, *names, name="scaled", epsilon=1e-9)
    zero = graph.constant("zero", np.array(128, dtype=np.uint8))
    size = graph.constant("step", np.array(step, dtype=np.float32))
    values = graph.node("QuantizeLinear", scaled, size, zero, name="values")
    bytes_ = graph.constant("weight0.bytes", np.round(weight[:dim] / scales).astype(np.int8))
    integers = graph.node("MatMulInteger", values, bytes_, zero, name="integers")
    real = graph.node("Cast", integers, name="integers.wide", to=TensorProto.FLOAT)
    product = graph.node("Mul", real, graph.constant("scales", (scales * step).astype(np.float32)), name="product")
    graph.layers(graph.node("Add", product, graph.age_product(dense), name="product0"), dense)
    return graph.model(_states_inputs(dim), len(dense.layers[-1][1]))


def projection_of(dense: Dense) -> Projection:
    """The network up to its first product, without the age: what an engine can do by itself."""
    limit, weight = np.array(LIMIT, dtype=np.float32), dense.layers[0][0][:-1]
    return Projection(dense.mean[:-1], dense.scale[:-1], limit, weight.astype(np.float16))


def head_graph(dense: Dense) -> onnx.ModelProto:
    """The rest: projected rows `hidden` float16 [N, P] and age float32 [N] -> probabilities float32 [N, bins]."""
    graph = _Graph()
    wide = graph.node("Cast", "hidden", name="hidden.wide", to=TensorProto.FLOAT)
    graph.layers(graph.node("Add", wide, graph.age_product(dense), name="product0"), dense)
    return graph.model(_states_inputs(dense.layers[0][0].shape[1]), len(dense.layers[-1][1]))


def _states_inputs(dim: int) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info("hidden", TensorProto.FLOAT16, ["N", dim]),
        helper.make_tensor_value_info("age", TensorProto.FLOAT, ["N"]),
    ]


def prompt_graph(dense: Dense) -> onnx.ModelProto:
    """features float32 [N, buckets + 1] -> probabilities float32 [N, bins] of total length."""
    graph = _Graph()
    graph.dense("features", dense)
    inputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", len(dense.mean)])]
    return graph.model(inputs, len(dense.layers[-1][1]))


def run(model: onnx.ModelProto, **inputs: NDArray[Any]) -> Array:
    """Probabilities from ONNX Runtime on the CPU."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(["probabilities"], inputs)
    return np.asarray(probabilities)


def state_features(hidden: NDArray[np.float16], age: NDArray[Any]) -> Array:
    """What the states network reads [rows, dim + 1]."""
    return np.concatenate([hidden.astype(np.float32), np.log1p(age)[:, None].astype(np.float32)], axis=1)


def write(artefact: Artefact, folder: Path) -> None:
    """Writes the graphs, then manifest.json; raises ValueError where a graph strays from its network."""
    folder.mkdir(parents=True, exist_ok=True)
    dim = len(artefact.layers) * artefact.hidden_size
    rng = np.random.default_rng(CANARY_SEED)
    hidden = rng.standard_normal((len(CANARY_AGES), dim)).astype(np.float16)
    ages = np.array(CANARY_AGES, dtype=np.float32)
    states, int8, by = states_graph(artefact.states), states_graph_int8(artefact.states), artefact.refinement
    canary = run(states, hidden=hidden, age=ages)
    _agree("model.onnx", canary, artefact.states.probabilities(state_features(hidden, ages)))
    files = {"model.onnx": states.SerializeToString(), **artefact.prompt_files}
    eight_bits = {}
    if _agree_in_eight_bits(artefact.states, states, int8):
        files["model.int8.onnx"] = int8.SerializeToString()
        eight_bits = {"int8": run(int8, hidden=hidden, age=ages).astype(float).round(6).tolist()}
    projected, files_of_it = projected_files(artefact.states)
    files |= files_of_it
    for name, content in files.items():
        (folder / name).write_bytes(content)
    manifest = {
        "format": 1,
        "name": artefact.name,
        "served_model": artefact.served_model,
        "layers": list(artefact.layers),
        "hidden_size": artefact.hidden_size,
        "dim": dim,
        "dtype": "float16",
        **projected,
        "edges": artefact.edges.tolist(),
        "representatives": artefact.representatives.round(4).tolist(),
        "rates": by.rates.round(8).tolist(),
        "prior": by.prior.round(8).tolist(),
        "absorbing": by.absorbing,
        "tau": by.tau,
        "forgetting": by.forgetting,
        "floor": by.floor,
        "interval_levels": list(artefact.interval_levels),
        **artefact.prompt,
        "training": {**artefact.training, "opset": OPSET},
        "metrics": artefact.metrics,
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        "canary": {
            "hidden_seed": CANARY_SEED,
            "rows": len(CANARY_AGES),
            "ages": list(CANARY_AGES),
            "probabilities": canary.astype(float).round(6).tolist(),
            **eight_bits,
        },
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def _agree(name: str, graph: Array, network: Array) -> None:
    worst = float(np.abs(graph - network).max())
    if not worst <= CANARY_TOLERANCE:
        raise ValueError(f"{name}: probabilities differ by {worst:.4f} from the network (limit {CANARY_TOLERANCE:g})")


def projected_files(dense: Dense) -> tuple[dict[str, int], dict[str, bytes]]:
    """What the manifest says of projected rows, and the files for them; nothing where float16 is too coarse."""
    projection, head = projection_of(dense), head_graph(dense)
    hidden, age = _rows_like(dense)
    whole = run(states_graph(dense), hidden=hidden, age=age)
    if _strays("head.onnx", np.abs(run(head, hidden=projection(hidden), age=age) - whole), CANARY_TOLERANCE):
        return {}, {}
    files = {"projection.npz": projection.pack(), "head.onnx": head.SerializeToString()}
    return {"projected_dim": projection.dim}, files


def _agree_in_eight_bits(dense: Dense, states: onnx.ModelProto, int8: onnx.ModelProto) -> bool:
    """Whether both graphs say the same of rows like those that were learnt from; says so if not."""
    hidden, age = _rows_like(dense)
    difference = np.abs(run(states, hidden=hidden, age=age) - run(int8, hidden=hidden, age=age))
    return not _strays("model.int8.onnx", difference, INT8_DIFFERENCE)


def _rows_like(dense: Dense) -> tuple[NDArray[np.float16], Array]:
    """Hidden states and ages like those that a network has learnt from."""
    rng = np.random.default_rng(CANARY_SEED)
    standard = rng.standard_normal((COMPARED_ROWS, len(dense.mean) - 1))
    hidden = (dense.mean[:-1] + standard / dense.scale[:-1]).astype(np.float16)
    return hidden, rng.integers(0, 1000, COMPARED_ROWS).astype(np.float32)


def _strays(name: str, difference: Array, limit: float) -> bool:
    worst = float(difference.max())
    if not worst <= limit:
        log = structlog.get_logger("export")
        log.warning(f"written without {name}: it strays", difference=worst, limit=limit)
    return not worst <= limit
