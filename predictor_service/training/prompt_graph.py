"""Prompt networks as ONNX graphs, in the service's own terms: ids and prompt length in, probabilities over bins out."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper
from torch import nn

from predictor_service.training.networks import Array
from predictor_service.training.prompt_encoder import Block, Encoder
from predictor_service.training.prompt_llm import LlmReader
from predictor_service.training.prompt_llm_graph import llm_probabilities
from predictor_service.training.prompt_nodes import Nodes, array

OPSET = 17


def prompt_graph(networks: Sequence[Encoder | LlmReader], spread: Array | None, most_ids: int) -> onnx.ModelProto:
    """ids int32 [N, T <= most_ids], below 0 where there is none, and tokens float32 [N] -> probabilities [N, bins].

    Several networks are averaged. ``spread`` [classes, bins] is given where their classes are not the bins.
    """
    graph = Nodes()
    found = [_probabilities(graph, network, most_ids) for network in networks]
    p = found[0] if len(found) == 1 else graph("Mean", *found)
    if spread is not None:
        p = graph("MatMul", p, graph.constant(spread))
    graph.nodes.append(helper.make_node("Identity", [p], ["probabilities"]))
    bins = networks[0].classes.out_features if spread is None else spread.shape[1]
    inputs = [
        helper.make_tensor_value_info("ids", TensorProto.INT32, ["N", "T"]),
        helper.make_tensor_value_info("tokens", TensorProto.FLOAT, ["N"]),
    ]
    outputs = [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", bins])]
    made = helper.make_graph(graph.nodes, "prompt", inputs, outputs, graph.constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="trail")
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    return model


def _probabilities(graph: Nodes, network: Encoder | LlmReader, most_ids: int) -> str:
    none = graph.constant(np.array(0, dtype=np.int32))
    valid, ids = graph("GreaterOrEqual", "ids", none), graph("Max", "ids", none)
    if isinstance(network, LlmReader):
        return llm_probabilities(graph, network, ids, valid, most_ids)
    read = graph("Concat", *_pooled(graph, network, ids, valid, most_ids), graph.log_tokens(), axis=1)
    return graph("Softmax", graph.linear(graph.gelu(graph.linear(read, network.summary)), network.classes), axis=1)


def _pooled(graph: Nodes, network: Encoder, ids: str, valid: str, most_ids: int) -> tuple[str, str]:
    """Mean and largest value over the ids, each [N, width]."""
    x = _embedded(graph, network, ids, most_ids)
    unseen = graph("Where", valid, graph.number(0.0), graph.number(-1e9))
    bias = graph("Unsqueeze", unseen, graph.integers(1, 2))
    for block in network.blocks:
        x = _block(graph, block, x, bias)
    inside = graph("Unsqueeze", valid, graph.integers(2))
    largest = graph("ReduceMax", graph("Where", inside, x, graph.number(-1e4)), axes=[1], keepdims=0)
    return graph.mean(x, inside), largest


def _embedded(graph: Nodes, network: Encoder, ids: str, most_ids: int) -> str:
    x = graph.rows(array(network.table.rows()), ids)
    if isinstance(network.widen, nn.Linear):
        x = graph.linear(x, network.widen)
    positions = graph.halved(array(network.position.weight)[:most_ids])
    longest = graph("Shape", "ids", start=1, end=2)
    used = graph("Slice", positions, graph.integers(0), longest, graph.integers(0))
    return graph.norm(graph("Add", x, used), network.norm)


def _block(graph: Nodes, block: Block, x: str, bias: str) -> str:
    width = block.out.in_features
    size = width // block.heads
    heads = graph("Reshape", graph.linear(x, block.qkv), graph.integers(0, 0, 3, block.heads, size))
    # [3, N, heads, T, size]
    parts = graph("Transpose", heads, perm=[2, 0, 3, 1, 4])
    query, key, value = (graph("Gather", parts, graph.constant(np.array(i, dtype=np.int64)), axis=0) for i in range(3))
    scores = graph("MatMul", query, graph("Transpose", key, perm=[0, 1, 3, 2]))
    scaled = graph("Mul", scores, graph.number(size**-0.5))
    weights = graph("Softmax", graph("Add", scaled, bias), axis=-1)
    seen = graph("Transpose", graph("MatMul", weights, value), perm=[0, 2, 1, 3])
    flat = graph("Reshape", seen, graph.integers(0, 0, width))
    x = graph.norm(graph("Add", x, graph.linear(flat, block.out)), block.norm1)
    inner = graph.linear(graph.gelu(graph.linear(x, block.up)), block.down)
    return graph.norm(graph("Add", x, inner), block.norm2)
