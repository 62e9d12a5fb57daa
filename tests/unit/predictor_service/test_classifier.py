from collections.abc import Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

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
