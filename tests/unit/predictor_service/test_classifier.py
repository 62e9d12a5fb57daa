import gc
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from predictor_service import classifier, cuda
from predictor_service.classifier import CPU, CUDA, Classifier, Graph, load_graph
from predictor_service.cuda import BoundRun
from tests import artefacts

DIM = 16


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    folder = artefacts.make(tmp_path_factory.mktemp("artefact"))
    return Graph((folder / "model.onnx").read_bytes(), threads=1)


def rows(count: int, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, DIM)).astype(np.float16), rng.integers(0, 900, count)


def plain(graph: Graph, hidden: Any, ages: Any) -> Any:
    return graph.run(hidden=hidden, age=ages.astype(np.float32))


def on_cpu(graph: Graph) -> BoundRun:
    """The same binding over ordinary memory, where there is no GPU."""
    return BoundRun(graph.session, device="cpu", allocate=np.empty)


def test_rows_in_several_matrices_are_answered_in_their_order(graph: Graph) -> None:
    hidden, ages = rows(7)
    expected = plain(graph, hidden, ages)
    classify = Classifier(graph)
    assert classify.device == "cpu"
    for parts in ([hidden[:3], hidden[3:]], [hidden[:0], hidden], [hidden, hidden[:0]], (hidden,)):
        np.testing.assert_array_equal(classify(parts, ages), expected)
    np.testing.assert_array_equal(classify(hidden, ages), expected)
    assert classify((hidden[:0], hidden[:0]), ages[:0]).shape == (0, 10)


def test_rows_of_another_precision_are_read_as_float16(graph: Graph) -> None:
    hidden, ages = rows(4)
    wide = hidden.astype(np.float32) + np.float32(1e-5)
    np.testing.assert_array_equal(Classifier(graph)(wide, ages), plain(graph, wide.astype(np.float16), ages))
    np.testing.assert_array_equal(on_cpu(graph)([wide], ages), plain(graph, wide.astype(np.float16), ages))


def test_bound_runs_say_what_plain_ones_do_whatever_came_before(graph: Graph) -> None:
    bound = on_cpu(graph)
    # Fewer rows than before must not show what those left in the buffers; more must grow them.
    for seed, count in enumerate((5, 300, 1, 300, 64, 65)):
        hidden, ages = rows(count, seed)
        cut = count // 3
        answer = bound([hidden[:cut], hidden[cut:]], ages)
        np.testing.assert_allclose(answer, plain(graph, hidden, ages), atol=1e-6)


def test_an_answer_stays_when_the_next_run_writes_over_the_buffers(graph: Graph) -> None:
    bound = on_cpu(graph)
    first = bound([rows(6, 1)[0]], rows(6, 1)[1])
    kept = first.copy()
    bound([rows(6, 2)[0]], rows(6, 2)[1])
    np.testing.assert_array_equal(first, kept)


def test_buffers_are_kept_and_grow_in_powers_of_two(graph: Graph) -> None:
    shapes: list[tuple[int, ...]] = []

    def allocate(shape: tuple[int, ...], dtype: Any) -> Any:
        shapes.append(shape)
        return np.empty(shape, dtype)

    bound = BoundRun(graph.session, device="cpu", allocate=allocate)
    for count in (1, 64, 65, 100, 128, 500):
        bound([rows(count)[0]], rows(count)[1])
    assert [shape[0] for shape in shapes if len(shape) == 1] == [64, 128, 512]
    assert shapes[-3:] == [(512, DIM), (512,), (512, 10)]


def test_memory_that_cannot_grow_leaves_the_old_buffers_in_use(graph: Graph) -> None:
    def allocate(shape: tuple[int, ...], dtype: Any) -> Any:
        if shape[0] > 64:
            raise OSError("no page-locked memory")
        return np.empty(shape, dtype)

    bound = BoundRun(graph.session, device="cpu", allocate=allocate)
    with pytest.raises(OSError, match="page-locked"):
        bound([rows(65)[0]], rows(65)[1])
    hidden, ages = rows(9)
    np.testing.assert_allclose(bound([hidden], ages), plain(graph, hidden, ages), atol=1e-6)


def test_threads_that_share_a_bound_run_do_not_mix_their_rows(graph: Graph) -> None:
    bound = on_cpu(graph)
    wrong: list[int] = []

    def serve(seed: int) -> None:
        hidden, ages = rows(40 + seed, seed)
        expected = plain(graph, hidden, ages)
        wrong.extend(seed for _ in range(200) if not np.allclose(bound([hidden], ages), expected, atol=1e-6))

    threads = [Thread(target=serve, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


class OnCuda(Graph):
    """A graph that says it is on CUDA, on a machine that has none."""

    on_cuda = True


def test_a_gpu_that_cannot_be_bound_still_serves_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(shape: Sequence[int], dtype: Any) -> Any:
        raise OSError("none of libcudart is there")

    content = (artefacts.make(tmp_path) / "model.onnx").read_bytes()
    monkeypatch.setattr(classifier, "BoundRun", lambda session: BoundRun(session, allocate=no_memory))
    classify = Classifier(OnCuda(content, threads=1, providers=[CPU]))
    assert classify.device == "cuda, not bound: none of libcudart is there"
    hidden, ages = rows(3)
    np.testing.assert_array_equal(classify(hidden, ages), plain(Graph(content, threads=1), hidden, ages))


def test_a_binding_that_answers_otherwise_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stale(BoundRun):
        def fill(self, hidden: Any, ages: Any) -> None:
            """Loses the rows."""

    content = (artefacts.make(tmp_path) / "model.onnx").read_bytes()
    monkeypatch.setattr(classifier, "BoundRun", lambda session: Stale(session, device="cpu", allocate=np.zeros))
    classify = Classifier(OnCuda(content, threads=1, providers=[CPU]))
    assert classify.device.startswith("cuda, not bound: probabilities differ by 0.")
    hidden, ages = rows(3)
    np.testing.assert_array_equal(classify(hidden, ages), plain(Graph(content, threads=1), hidden, ages))


def test_a_binding_that_agrees_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = (artefacts.make(tmp_path) / "model.onnx").read_bytes()
    runs: list[int] = []

    class Counted(BoundRun):
        def run(self, rows: int) -> Any:
            runs.append(rows)
            return super().run(rows)

    monkeypatch.setattr(classifier, "BoundRun", lambda session: Counted(session, device="cpu", allocate=np.empty))
    classify = Classifier(OnCuda(content, threads=1, providers=[CPU]))
    classify(*rows(11))
    assert classify.device == "cuda"
    assert runs[-1] == 11


class Failing(BoundRun):
    """A binding over ordinary memory that fails as a GPU does, once `failing` says so."""

    failing = False

    def run(self, rows: int) -> Any:
        if type(self).failing:
            raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")
        return super().run(rows)


@pytest.fixture
def on_failing_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Classifier:
    """A classifier on CUDA; set Failing.failing for it to fail."""
    monkeypatch.setattr(Failing, "failing", False)
    monkeypatch.setattr(classifier, "BoundRun", lambda session: Failing(session, device="cpu", allocate=np.empty))
    content = (artefacts.make(tmp_path) / "model.onnx").read_bytes()
    made = Classifier(OnCuda(content, threads=1, providers=[CPU]))
    assert made.device == "cuda"
    return made


def degraded_models() -> float:
    gc.collect()
    return REGISTRY.get_sample_value("trail_predictor_degraded_models") or 0.0


def test_where_cuda_fails_while_it_serves_the_cpu_goes_on_and_it_is_told_once(
    graph: Graph, on_failing_cuda: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    classify, before = on_failing_cuda, degraded_models()
    hidden, ages = rows(7)
    classify(hidden, ages)
    assert not classify.degraded
    monkeypatch.setattr(Failing, "failing", True)
    with capture_logs() as logs:
        for parts in (hidden, [hidden[:3], hidden[3:]]):
            np.testing.assert_array_equal(classify(parts, ages), plain(graph, hidden, ages))
    assert [(line["log_level"], "CUDA failure 700" in line["error"]) for line in logs] == [("error", True)]
    assert classify.degraded
    assert classify.device.startswith("cpu, cuda failed: CUDA failure 700")
    assert degraded_models() == before + 1
    monkeypatch.setattr(Failing, "failing", False)
    monkeypatch.setattr(Failing, "run", lambda *_: pytest.fail("a device that failed is not used again"))
    classify(hidden, ages)


def test_threads_that_find_cuda_failing_together_fall_back_once(
    graph: Graph, on_failing_cuda: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, made = degraded_models(), []
    on_cpu = Graph.on_cpu
    monkeypatch.setattr(Graph, "on_cpu", lambda graph: made.append(graph) or on_cpu(graph))
    monkeypatch.setattr(Failing, "failing", True)
    hidden, ages = rows(50)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: on_failing_cuda(hidden, ages), range(32)))
    for answer in answers:
        np.testing.assert_allclose(answer, plain(graph, hidden, ages), atol=1e-6)
    assert (len(made), degraded_models()) == (1, before + 1)


def test_rows_that_the_cpu_cannot_read_either_are_no_failure_of_cuda(on_failing_cuda: Classifier) -> None:
    hidden, ages = rows(3)
    with pytest.raises(Exception, match=r"dim|dimension|shape"):
        on_failing_cuda(hidden[:, :5], ages)
    assert not on_failing_cuda.degraded
    assert on_failing_cuda.device == "cuda"


def test_a_model_that_fell_back_counts_until_it_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "BoundRun", lambda session: Failing(session, device="cpu", allocate=np.empty))
    before = degraded_models()
    classify = Classifier(OnCuda((artefacts.make(tmp_path) / "model.onnx").read_bytes(), threads=1, providers=[CPU]))
    monkeypatch.setattr(Failing, "failing", True)
    classify(*rows(3))
    assert degraded_models() == before + 1
    del classify
    assert degraded_models() == before


def test_where_a_gpu_cannot_be_had_the_cpu_serves_and_nothing_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content = (artefacts.make(tmp_path) / "model.onnx").read_bytes()
    # Options that cannot be read keep the provider from starting, as a missing GPU does.
    graph = Graph(content, threads=1, providers=[(CUDA, "no options"), CPU])
    assert not graph.on_cuda
    assert Classifier(graph).device.startswith("cpu, not cuda: ")
    assert Classifier(graph)(*rows(3)).shape == (3, 10)
    assert capfd.readouterr() == ("", "")


def test_where_cuda_is_missing_page_locked_memory_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_LIBRARIES", ("libcudart.so.0",))
    cuda._runtime.cache_clear()
    with pytest.raises(OSError, match=r"none of libcudart\.so\.0"):
        cuda.page_locked((4, 3), np.float16)


def test_a_graph_that_onnx_runtime_does_not_take_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.onnx: not a graph"):
        load_graph(tmp_path / "model.onnx", b"no graph", threads=1)
