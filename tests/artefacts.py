"""Makes real, tiny model artefacts: random networks in ONNX with everything that a manifest must say."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from sidecar.projection import Projection

EDGES = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256]
WIDTH = 12
VOCABULARY, UNKNOWN = 20, "[UNK]"
PREFIX, SUFFIX = [3, 4], [8, 9]
REPRESENTATIVES = [0.5, 1.5, 3, 6, 12, 24, 48, 96, 190, 400]


def make(
    folder: Path,
    *,
    name: str = "tiny",
    layers: tuple[int, ...] = (3,),
    hidden_size: int = 16,
    prompt_buckets: int = 8,
    prompt_kind: str = "counts",
    projected: bool = False,
    seed: int = 0,
) -> Path:
    """Writes an artefact into `folder` (made if need be) and returns it. Ten log-spaced bins.

    With `projected` engines may send rows of WIDTH values, which say the same.
    The prompt kind `counts` is written in the old form, without a section of its own. `text` needs `tokenizers`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    dim = len(layers) * hidden_size
    states = _state_model(rng, dim)
    contents = {
        "model.onnx": states.SerializeToString(),
        "prompt.onnx": _prompt_model(rng, prompt_buckets + 1).SerializeToString(),
    }
    prompt: dict[str, Any] = {"prompt_buckets": prompt_buckets}
    if prompt_kind != "counts":
        sequence = _sequence_model(rng).SerializeToString()
        contents |= {"prompt.onnx": sequence, **(_tokenizers() if prompt_kind == "text" else {})}
        prompt = {"prompt": _sequence_section(prompt_kind, sequence)}
    if projected:
        contents |= _projected(states)
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
        "projected_dim": WIDTH if projected else None,
        "edges": EDGES,
        "representatives": REPRESENTATIVES,
        "rates": [*(1.0 / np.diff(EDGES)), 1.0 / 144.0],
        "prior": [1.0 / len(EDGES)] * len(EDGES),
        "tau": 0.5,
        "floor": 1e-4,
        **prompt,
        "training": {},
        "metrics": {},
        "files": {file: sha256(content) for file, content in contents.items()},
        "canary": _canary(contents["model.onnx"], dim),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def edit(folder: Path, **changes: Any) -> None:
    """Overwrites top-level fields of the manifest."""
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


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
    return _mlp(rng, _states_inputs(dim), nodes, constants, dim + 1)


def _projected(states: onnx.ModelProto) -> dict[str, bytes]:
    """The network of `states` cut behind its first product."""
    weights = {each.name: numpy_helper.to_array(each) for each in states.graph.initializer}
    first = weights["w1"]
    plain, shift = np.ones(len(first) - 1, np.float32), np.zeros(len(first) - 1, np.float32)
    projection = Projection(shift, plain, np.array(65504, np.float32), first[:-1].astype(np.float16))
    nodes = [
        helper.make_node("Cast", ["hidden"], ["hidden32"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["age", "last_axis"], ["age_column"]),
        helper.make_node("MatMul", ["age_column", "age_weight"], ["past"]),
        helper.make_node("Add", ["hidden32", "past"], ["h"]),
        *_HEAD,
    ]
    constants = {name: weights[name] for name in ("last_axis", "w2")}
    constants["age_weight"] = weights["age_scale"] * first[-1:]
    head = _model(_states_inputs(WIDTH), nodes, constants)
    return {"projection.npz": projection.pack(), "head.onnx": head.SerializeToString()}


def _states_inputs(dim: int) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info("hidden", TensorProto.FLOAT16, ["n", dim]),
        helper.make_tensor_value_info("age", TensorProto.FLOAT, ["n"]),
    ]


def _prompt_model(rng: np.random.Generator, width: int) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", width])]
    return _mlp(rng, inputs, [helper.make_node("Identity", ["features"], ["input"])], {}, width)


def _sequence_model(rng: np.random.Generator) -> onnx.ModelProto:
    """The mean embedding of the ids and the prompt's length, through one hidden layer."""
    nodes = [
        helper.make_node("GreaterOrEqual", ["ids", "none"], ["valid"]),
        helper.make_node("Cast", ["valid"], ["counted"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["counted", "last_axis"], ["mask"]),
        helper.make_node("Max", ["ids", "none"], ["known"]),
        helper.make_node("Gather", ["table", "known"], ["rows"]),
        helper.make_node("Mul", ["rows", "mask"], ["inside"]),
        helper.make_node("ReduceSum", ["inside", "middle_axis"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "middle_axis"], ["count"], keepdims=0),
        helper.make_node("Div", ["sum", "count"], ["mean"]),
        helper.make_node("Unsqueeze", ["tokens", "middle_axis"], ["length"]),
        helper.make_node("Log", ["length"], ["logarithm"]),
        helper.make_node("Concat", ["mean", "logarithm"], ["input"], axis=1),
    ]
    constants = {
        "none": np.array(0, dtype=np.int32),
        "last_axis": np.array([2], dtype=np.int64),
        "middle_axis": np.array([1], dtype=np.int64),
        "table": rng.standard_normal((VOCABULARY + 1, 4)).astype(np.float32) * 3,
    }
    inputs = [
        helper.make_tensor_value_info("ids", TensorProto.INT32, ["n", "t"]),
        helper.make_tensor_value_info("tokens", TensorProto.FLOAT, ["n"]),
    ]
    return _mlp(rng, inputs, nodes, constants, 5)


def _sequence_section(kind: str, model: bytes) -> dict[str, Any]:
    canary = [*PREFIX, 5, 6, 7, *SUFFIX]
    # What the service makes of it: the ids inside the frame, or their words as the encoder numbers them.
    ids = [5, 6, 7] if kind == "tokens" else [1, 17, 16, 15, 2]
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    inputs = {"ids": np.array([ids], dtype=np.int32), "tokens": np.array([len(canary)], dtype=np.float32)}
    (probabilities,) = session.run(["probabilities"], inputs)
    limits = {"vocabulary": VOCABULARY} if kind == "tokens" else {"most_pieces": 12}
    return {
        "kind": kind,
        "most_ids": 8,
        **limits,
        "prefix": PREFIX,
        "suffix": SUFFIX,
        "canary": {"token_ids": canary, "probabilities": np.asarray(probabilities)[0].tolist()},
    }


def _tokenizers() -> dict[str, bytes]:
    """Words w0 to w16: the LLM's tokenizer gives wi the id i + 3, the encoder's the id 19 - i, between 1 and 2."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    made = {}
    for name, words in (("llm", range(17)), ("prompt", reversed(range(17)))):
        ids = {word: i for i, word in enumerate([UNKNOWN, "[CLS]", "[SEP]", *(f"w{i}" for i in words)])}
        tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        if name == "prompt":
            tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
        made[f"{name}_tokenizer.json"] = tokenizer.to_str().encode()
    return made


def _mlp(
    rng: np.random.Generator,
    inputs: list[onnx.ValueInfoProto],
    nodes: list[onnx.NodeProto],
    constants: dict[str, Any],
    width: int,
) -> onnx.ModelProto:
    """`input` [n, width] through one hidden layer to `probabilities` [n, bins]."""
    # Of halves, as trained ones are.
    first = (rng.standard_normal((width, WIDTH)) / np.sqrt(width)).astype(np.float16).astype(np.float32)
    weights = constants | {"w1": first, "w2": rng.standard_normal((WIDTH, len(EDGES))).astype(np.float32)}
    return _model(inputs, [*nodes, helper.make_node("MatMul", ["input", "w1"], ["h"]), *_HEAD], weights)


_HEAD = [
    helper.make_node("Relu", ["h"], ["a"]),
    helper.make_node("MatMul", ["a", "w2"], ["logits"]),
    helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
]


def _model(
    inputs: list[onnx.ValueInfoProto], nodes: list[onnx.NodeProto], constants: dict[str, Any]
) -> onnx.ModelProto:
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", len(EDGES)])
    initialisers = [numpy_helper.from_array(value, key) for key, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, [output], initialisers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
