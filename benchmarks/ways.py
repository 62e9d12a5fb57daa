"""The ways of running a classifier's graph on one device, compared with each other."""

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.timing import Budget, call_times, summary
from predictor_service.classifier import CPU, CUDA, Classifier, Graph
from predictor_service.cuda import BoundRun, Matrix, page_locked

# The same graph, rows and device: the canary's tolerance, for other machines and TF32, is wider.
MOST_DIFFERENCE = 1e-3

Call = Callable[[], Matrix]


@dataclass(frozen=True)
class Rows:
    """Input of one cell, hidden [N, dim] float16 and ages [N] float32, and its p [N, bins] by plain runs."""

    hidden: Matrix
    ages: Matrix
    on_device: Matrix
    on_cpu: Matrix

    @classmethod
    def random(cls, content: bytes, count: int, seed: int) -> "Rows":
        cpu = Graph(content, threads=cores(), providers=[CPU])
        _, (_, dim) = cpu.inputs["hidden"]
        rng = np.random.default_rng(seed)
        hidden = rng.standard_normal((count, dim)).astype(np.float16)
        ages = rng.integers(0, 1000, count).astype(np.float32)
        plain = [graph.run(hidden=hidden, age=ages) for graph in (_graph(content, 1), cpu)]
        return cls(hidden, ages, *plain)

    def __len__(self) -> int:
        return len(self.ages)


@dataclass(frozen=True)
class Way:
    """`setup` makes the call to be timed, which answers with p [N, bins]."""

    name: str
    setup: Callable[[bytes, Rows], Call]

    def measure(self, content: bytes, rows: Rows, budget: Budget) -> dict[str, Any]:
        """Times, and how far the answer is from plain runs. Raises RuntimeError where it is another answer."""
        call = self.setup(content, rows)
        call()
        answer = call()
        from_plain, from_cpu = (float(np.abs(answer - plain).max()) for plain in (rows.on_device, rows.on_cpu))
        if not from_plain <= MOST_DIFFERENCE:
            raise RuntimeError(f"probabilities differ by {from_plain:.5f} from a plain run")
        differences = {"largest_difference_from_plain": from_plain, "largest_difference_from_cpu": from_cpu}
        return differences | summary(call_times(call, budget), len(rows))


def on_cpu() -> Sequence[Way]:
    """As the service calls it, on one core and on all."""
    counts = sorted({1, cores()})
    return [
        Way(f"{count} thread{'s' * (count > 1)}", functools.partial(_classifier, threads=count)) for count in counts
    ]


def on_cuda() -> Sequence[Way]:
    """From a plain run to bound ones; the last is as the service calls it, with the copy of rows into the buffers."""
    return [
        Way("plain", _plain),
        Way("plain, page-locked rows", _page_locked),
        Way("bound, copied by ONNX Runtime", functools.partial(_bound, device="cpu")),
        Way("bound", _bound),
        Way("bound, CUDA graph", _captured),
        Way("classifier", _served),
    ]


def cores() -> int:
    return len(os.sched_getaffinity(0))


@functools.lru_cache(maxsize=2)
def _graph(content: bytes, threads: int) -> Graph:
    return Graph(content, threads=threads)


def _classifier(content: bytes, rows: Rows, threads: int = 1) -> Call:
    classify = Classifier(_graph(content, threads))
    if "not bound" in classify.device:
        raise RuntimeError(classify.device)
    return lambda: classify(rows.hidden, rows.ages)


def _served(content: bytes, rows: Rows) -> Call:
    _on_cuda(_graph(content, 1))
    return _classifier(content, rows)


def _plain(content: bytes, rows: Rows) -> Call:
    graph = _on_cuda(_graph(content, 1))
    return lambda: graph.run(hidden=rows.hidden, age=rows.ages)


def _page_locked(content: bytes, rows: Rows) -> Call:
    graph, hidden, ages = _on_cuda(_graph(content, 1)), _locked(rows.hidden), _locked(rows.ages)
    return lambda: graph.run(hidden=hidden, age=ages)


def _bound(content: bytes, rows: Rows, device: str = "cuda") -> Call:
    run = BoundRun(_on_cuda(_graph(content, 1)).session, device=device)
    run.fill([rows.hidden], rows.ages)
    return lambda: run.run(len(rows))


def _captured(content: bytes, rows: Rows) -> Call:
    graph = _on_cuda(Graph(content, threads=1, providers=[(CUDA, {"enable_cuda_graph": "1"}), CPU]))
    run = BoundRun(graph.session)
    # Captured with other rows: a replay that did not read the true ones would be found out.
    run.fill([rows.hidden * np.float16(0.5)], rows.ages)
    run.run(len(rows))
    run.fill([rows.hidden], rows.ages)
    return lambda: run.run(len(rows))


def _on_cuda(graph: Graph) -> Graph:
    if not graph.on_cuda:
        raise RuntimeError(f"ONNX Runtime {onnxruntime.__version__} runs on {graph.device}")
    return graph


def _locked(array: Matrix) -> Matrix:
    copy = page_locked(array.shape, array.dtype)
    copy[:] = array
    return copy
