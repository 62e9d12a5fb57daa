"""Graphs in ONNX Runtime: on CUDA where the installed runtime has it, else on the CPU, by the same code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from predictor_service.bins import Array


class Graph:
    """One ONNX file with an output `probabilities` [N, bins]."""

    def __init__(self, content: bytes, *, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning threads would take the cores on which the engine may run.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session: Any = onnxruntime.InferenceSession(content, options, providers=_providers())

    @property
    def inputs(self) -> Mapping[str, tuple[str, list[Any]]]:
        """Element type and shape of each input, as ONNX names them."""
        return {node.name: (node.type, list(node.shape)) for node in self._session.get_inputs()}

    @property
    def bins(self) -> Any:
        """Columns of the output `probabilities`; None where there is no such output."""
        shapes = {node.name: node.shape for node in self._session.get_outputs()}
        return shapes.get("probabilities", [None])[-1]

    def run(self, **inputs: npt.NDArray[Any]) -> Array:
        """Probabilities [N, bins] as float64."""
        (probabilities,) = self._session.run(["probabilities"], inputs)
        return np.asarray(probabilities, dtype=np.float64)


class Classifier:
    """p_t: what one hidden state and an age say about the remaining length."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def __call__(self, hidden: npt.NDArray[Any], ages: npt.NDArray[Any]) -> Array:
        """p [N, bins] for tapped layers [N, dim] (cast to float16) and ages [N] in tokens."""
        return self._graph.run(hidden=np.ascontiguousarray(hidden, dtype=np.float16), age=ages.astype(np.float32))


def load_graph(path: Path, content: bytes, *, threads: int) -> Graph:
    """Raises ValueError, naming the file, for what ONNX Runtime does not take."""
    try:
        return Graph(content, threads=threads)
    except Exception as error:  # ONNX Runtime's exceptions share no public base class.
        raise ValueError(f"{path.name}: not a graph that ONNX Runtime runs: {error}") from error


def _providers() -> list[str]:
    wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    return [name for name in wanted if name in onnxruntime.get_available_providers()]
