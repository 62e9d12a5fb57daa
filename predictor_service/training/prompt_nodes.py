"""Collects the nodes of an ONNX graph; what PyTorch's layers are in ONNX's terms."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from predictor_service.training.networks import Array


class Nodes:
    """Collects nodes and constants; names are made unique by the order in which they come."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def __call__(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def constant(self, value: NDArray[Any]) -> str:
        name = f"constant.{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, dtype=np.int64))

    def number(self, value: float) -> str:
        return self.constant(np.array(value, dtype=np.float32))

    def halved(self, value: Array) -> str:
        """A float16 constant read as float32: half the bytes on disk, folded away when the session loads."""
        return self("Cast", self.constant(value.astype(np.float16)), to=TensorProto.FLOAT)

    def linear(self, x: str, layer: nn.Linear) -> str:
        product = self("MatMul", x, self.halved(array(layer.weight.T)))
        return product if layer.bias is None else self("Add", product, self.constant(array(layer.bias)))

    def norm(self, x: str, layer: nn.LayerNorm) -> str:
        weight, bias = self.constant(array(layer.weight)), self.constant(array(layer.bias))
        return self("LayerNormalization", x, weight, bias, axis=-1, epsilon=layer.eps)

    def rows(self, table: Array, ids: str) -> str:
        """Rows of a table [rows, columns] that is kept as 8-bit integers, each with a scale of its own."""
        scale = np.maximum(np.abs(table).max(axis=1, keepdims=True), 1e-8) / 127
        rounded = self("Gather", self.constant(np.rint(table / scale).astype(np.int8)), ids, axis=0)
        by = self("Gather", self.constant(scale.astype(np.float32)), ids, axis=0)
        return self("Mul", self("Cast", rounded, to=TensorProto.FLOAT), by)

    def log_tokens(self) -> str:
        """Logarithm of the graph's input `tokens` [N, 1]."""
        return self("Unsqueeze", self("Log", self("Max", "tokens", self.number(1.0))), self.integers(1))

    def mean(self, x: str, inside: str) -> str:
        """Mean of x [N, T, width] over the T that are inside [N, T, 1]."""
        counted = self("Cast", inside, to=TensorProto.FLOAT)
        total = self("ReduceSum", self("Mul", x, counted), self.integers(1), keepdims=0)
        return self("Div", total, self("ReduceSum", counted, self.integers(1), keepdims=0))

    def gelu(self, x: str) -> str:
        erf = self("Erf", self("Div", x, self.number(2**0.5)))
        return self("Mul", self("Mul", x, self("Add", erf, self.number(1.0))), self.number(0.5))


def array(tensor: Tensor) -> Array:
    found: Array = tensor.detach().float().cpu().numpy()
    return found
