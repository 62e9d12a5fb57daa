"""Layers of a Llama-like LLM as ONNX: RMS norms, rotary positions, grouped heads, gated dense layers."""

from typing import Any

import numpy as np
import torch
from onnx import TensorProto
from torch import nn

from predictor_service.training.networks import Array
from predictor_service.training.prompt_llm import CLIP, LlmBody, LlmHead, LlmReader
from predictor_service.training.prompt_nodes import Nodes, array


def llm_probabilities(graph: Nodes, reader: LlmReader, ids: str, valid: str, most_ids: int) -> str:
    """[N, classes], the mean over the heads. Raises ValueError where the LLM is none of transformers' LlamaModel."""
    features = _features(graph, reader.body_of_all, ids, valid, most_ids)
    logarithm = graph.log_tokens()
    found = [_head(graph, head, features, logarithm) for head in reader.heads]
    return found[0] if len(found) == 1 else graph("Mean", *found)


def _head(graph: Nodes, head: LlmHead, features: str, logarithm: str) -> str:
    mean, variance = array(head.standard.running_mean), array(head.standard.running_var)
    centred = graph("Sub", features, graph.constant(mean))
    scaled = graph("Mul", centred, graph.constant(1 / np.sqrt(variance + np.float32(head.standard.eps))))
    x = graph("Concat", graph("Clip", scaled, graph.number(-CLIP), graph.number(CLIP)), logarithm, axis=1)
    return graph("Softmax", graph.linear(graph("Relu", graph.linear(x, head.summary)), head.classes), axis=1)


def _features(graph: Nodes, body: LlmBody, ids: str, valid: str, most_ids: int) -> str:
    """States of the last id at each tapped depth, side by side [N, features]."""
    llm = body.llm
    if llm.config.model_type != "llama":
        raise ValueError(f"prompt.onnx: cannot write the architecture {llm.config.model_type!r}, only 'llama'")
    known = graph("Min", ids, graph.constant(np.array(llm.embed_tokens.num_embeddings - 1, dtype=np.int32)))
    x = graph.rows(array(llm.embed_tokens.weight), known)
    places = _Places(graph, llm, most_ids)
    count = graph("ReduceSum", graph("Cast", valid, to=TensorProto.INT64), graph.integers(1), keepdims=1)
    last = graph("Sub", count, graph.integers(1))
    found = []
    for number, layer in enumerate(llm.layers, 1):
        x = graph("Add", x, _attention(graph, layer.self_attn, _norm(graph, x, layer.input_layernorm), places))
        x = graph("Add", x, _gated(graph, layer.mlp, _norm(graph, x, layer.post_attention_layernorm)))
        if number in body.taps:
            found.append(graph("GatherND", x, last, batch_dims=1))
    return graph("Concat", *found, axis=1)


class _Places:
    """What positions say, cut to a batch's longest prompt: rotations [T, head size], and who may see whom [T, T]."""

    def __init__(self, graph: Nodes, llm: nn.Module, most_ids: int) -> None:
        longest = graph("Shape", "ids", start=1, end=2)
        with torch.inference_mode():
            cosine, sine = llm.rotary_emb(torch.zeros(1, 1, 1), torch.arange(most_ids)[None])
        later = np.triu(np.full((most_ids, most_ids), -1e9, dtype=np.float32), k=1)
        both = graph("Concat", longest, longest, axis=0)
        start, axes = graph.integers(0, 0), graph.integers(0, 1)
        self.cosine, self.sine = (
            graph("Slice", graph.constant(array(each[0])), graph.integers(0), longest, graph.integers(0))
            for each in (cosine, sine)
        )
        self.later = graph("Slice", graph.constant(later), start, both, axes)


def _attention(graph: Nodes, attention: Any, x: str, places: _Places) -> str:
    size = attention.head_dim
    groups = attention.num_key_value_groups
    heads = attention.q_proj.out_features // size
    query, key, value = (
        graph("Transpose", graph("Reshape", product, graph.integers(0, 0, heads, size)), perm=[0, 2, 1, 3])
        for product in (
            graph.linear(x, attention.q_proj),
            graph.linear(x, _repeated(attention.k_proj, size, groups)),
            graph.linear(x, _repeated(attention.v_proj, size, groups)),
        )
    )
    query, key = (_rotated(graph, each, size, places) for each in (query, key))
    scores = graph("MatMul", query, graph("Transpose", key, perm=[0, 1, 3, 2]))
    scaled = graph("Mul", scores, graph.number(attention.scaling))
    seen = graph("MatMul", graph("Softmax", graph("Add", scaled, places.later), axis=-1), value)
    flat = graph("Reshape", graph("Transpose", seen, perm=[0, 2, 1, 3]), graph.integers(0, 0, heads * size))
    return graph.linear(flat, attention.o_proj)


def _repeated(layer: nn.Linear, size: int, groups: int) -> nn.Linear:
    """A projection to few heads as one to as many as the queries have: each head `groups` times."""
    made = nn.Linear(layer.in_features, layer.out_features * groups, bias=layer.bias is not None)
    with torch.no_grad():
        for ours, theirs in ((made.weight, layer.weight), (made.bias, layer.bias)):
            if theirs is not None:
                ours.copy_(theirs.unflatten(0, (-1, size)).repeat_interleave(groups, dim=0).flatten(0, 1))
    return made


def _rotated(graph: Nodes, x: str, size: int, places: _Places) -> str:
    axis, middle = graph.integers(3), graph.integers(size // 2)
    first = graph("Slice", x, graph.integers(0), middle, axis)
    second = graph("Slice", x, middle, graph.integers(size), axis)
    turned = graph("Concat", graph("Neg", second), first, axis=3)
    return graph("Add", graph("Mul", x, places.cosine), graph("Mul", turned, places.sine))


def _gated(graph: Nodes, mlp: Any, x: str) -> str:
    gate = graph.linear(x, mlp.gate_proj)
    active = graph("Mul", gate, graph("Sigmoid", gate))
    return graph.linear(graph("Mul", active, graph.linear(x, mlp.up_proj)), mlp.down_proj)


def _norm(graph: Nodes, x: str, norm: Any) -> str:
    square = graph("ReduceMean", graph("Mul", x, x), axes=[-1], keepdims=1)
    root = graph("Sqrt", graph("Add", square, graph.number(norm.variance_epsilon)))
    weight: Array = array(norm.weight)
    return graph("Mul", graph("Div", x, root), graph.constant(weight))
