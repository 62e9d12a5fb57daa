"""Graphs in ONNX Runtime: on CUDA where the installed runtime has it, else on the CPU, by the same code."""

import functools
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import structlog

from predictor_service import metrics
from predictor_service.bins import Array
from predictor_service.cuda import OUTPUT, BoundRun, Matrix
from predictor_service.onnx_file import check_self_contained

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_BOUND_TOLERANCE = 1e-3


class Graph:
    """One ONNX file with an output `probabilities` [N, bins].

    `device` says where it runs: "cpu", "cuda", or "cpu, not cuda: ..." where a GPU could not be had.
    """

    def __init__(self, content: bytes, *, threads: int, providers: Sequence[Any] = ()) -> None:
        """`providers` in ONNX Runtime's form; by default CUDA where there is one, then the CPU."""
        check_self_contained(content)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning threads would take the cores on which the engine may run.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self.session, self.device = _session(content, options, providers or _providers())
        self._content, self._threads = content if self.on_cuda else b"", threads

    @property
    def on_cuda(self) -> bool:
        return self.device == "cuda"

    def on_cpu(self) -> "Graph":
        """The same graph of one that is on CUDA, in a session on the CPU."""
        return Graph(self._content, threads=self._threads, providers=[CPU])

    @property
    def inputs(self) -> Mapping[str, tuple[str, list[Any]]]:
        """Element type and shape of each input, as ONNX names them."""
        return {node.name: (node.type, list(node.shape)) for node in self.session.get_inputs()}

    @property
    def bins(self) -> Any:
        """Columns of the output `probabilities`; None where there is no such output."""
        shapes = {node.name: node.shape for node in self.session.get_outputs()}
        return shapes.get(OUTPUT, [None])[-1]

    def run(self, **inputs: npt.NDArray[Any]) -> Array:
        """Probabilities [N, bins] as float64."""
        (probabilities,) = self.session.run([OUTPUT], inputs)
        return np.asarray(probabilities, dtype=np.float64)


class Classifier:
    """p_t: what one hidden state and an age say about the remaining length.

    `device` is the graph's with a `note` on it, or "cuda, not bound: ..." where IO binding failed and plain, slower
    runs serve, or "cpu, cuda failed: ..." once a run on CUDA failed: from then on the CPU serves.
    """

    def __init__(self, graph: Graph, *, note: str = "") -> None:
        self._graph = graph
        self._bound: BoundRun | None = None
        self._instead: Graph | None = None
        self._failing = threading.Lock()
        self.device: str = f"{graph.device}, {note}" if note else graph.device
        if graph.on_cuda:
            self._bind()

    @property
    def dim(self) -> int:
        """Values of a row."""
        _, (_, dim) = self._graph.inputs["hidden"]
        return int(dim)

    @property
    def degraded(self) -> bool:
        """Whether CUDA failed while it served."""
        return self._instead is not None

    def __call__(self, hidden: Matrix | Sequence[Matrix], ages: Matrix) -> Array:
        """p [N, bins] for tapped layers or projected rows [N, dim] (cast to float16) and ages [N] in tokens.

        Rows may lie in several matrices, whose order is theirs: no copy is made to join them before they are
        where the graph reads them.
        """
        parts = [hidden] if isinstance(hidden, np.ndarray) else [part for part in hidden if len(part)] or hidden[:1]
        if self._instead is not None or not self._graph.on_cuda:
            return _plain(self._instead or self._graph, parts, ages)
        try:
            return self._bound(parts, ages) if self._bound is not None else _plain(self._graph, parts, ages)
        except Exception as error:  # ONNX Runtime's exceptions share no public base class.
            return self._without_cuda(parts, ages, error)

    def _without_cuda(self, parts: Sequence[Matrix], ages: Matrix, error: Exception) -> Array:
        """Answers on the CPU, now and from now on. Rows that the CPU cannot read either say nothing against CUDA."""
        with self._failing:
            graph = self._instead or self._graph.on_cpu()
            found = _plain(graph, parts, ages)
            if self._instead is None:
                self._instead, self.device = graph, f"cpu, cuda failed: {error}"
                metrics.DEGRADED_MODELS.inc()
                weakref.finalize(self, metrics.DEGRADED_MODELS.dec)
                log = structlog.get_logger("models")
                log.error("CUDA failed; the CPU serves until this service starts again", error=str(error))
        return found

    def _bind(self) -> None:
        """Binds, if bound runs say what plain ones do."""
        try:
            bound = BoundRun(self._graph.session)
            difference = max(self._difference(bound, seed) for seed in (0, 1))
        except Exception as error:  # ONNX Runtime's exceptions share no public base class.
            self.device = f"cuda, not bound: {error}"
            return
        if difference <= _BOUND_TOLERANCE:
            self._bound, self.device = bound, "cuda"
        else:
            self.device = f"cuda, not bound: probabilities differ by {difference:.4f}"

    def _difference(self, bound: BoundRun, seed: int) -> float:
        hidden = [np.random.default_rng(seed).standard_normal((3, self.dim)).astype(np.float16)]
        ages = np.arange(3)
        return float(np.abs(bound(hidden, ages) - _plain(self._graph, hidden, ages)).max())


def _plain(graph: Graph, parts: Sequence[Matrix], ages: Matrix) -> Array:
    rows = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return graph.run(hidden=np.ascontiguousarray(rows, dtype=np.float16), age=ages.astype(np.float32))


def load_graph(path: Path, content: bytes, *, threads: int, providers: Sequence[Any] = ()) -> Graph:
    """Raises ValueError, naming the file, for what ONNX Runtime does not take. `providers` as for `Graph`."""
    try:
        return Graph(content, threads=threads, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions share no public base class.
        raise ValueError(f"{path.name}: not a graph that ONNX Runtime runs: {error}") from error


def _session(content: bytes, options: Any, providers: Sequence[Any]) -> tuple[Any, str]:
    """A session and its device: the CPU where a GPU cannot be had. ONNX Runtime's own way back prints."""
    reason = ""
    try:
        session = onnxruntime.InferenceSession(content, options, providers=list(providers), enable_fallback=0)
    except Exception as error:  # No GPU, or no room on it; what is wrong with the graph is wrong on the CPU too.
        session = onnxruntime.InferenceSession(content, options, providers=[CPU])
        reason = f", not cuda: {error}"
    return session, "cuda" if CUDA in session.get_providers() else f"cpu{reason}"


@functools.cache
def _providers() -> tuple[str, ...]:
    available = onnxruntime.get_available_providers()
    if CUDA in available:
        # CUDA's libraries lie in packages of their own; where torch is not imported, nobody has loaded them.
        onnxruntime.preload_dlls()
    return tuple(name for name in (CUDA, CPU) if name in available)
