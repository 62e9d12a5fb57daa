"""The classifier cut behind its first product says what the whole one says."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from benchmarks.projected_rows import largest_on_random
from predictor_service import artefact as artefacts
from predictor_service.training import export
from predictor_service.training.export import head_graph, projected_files, projection_of, run, states_graph
from predictor_service.training.networks import Array, Dense
from predictor_service.training.split import network_of, split

PACKAGED = Path(artefacts.__file__).parent / "models" / "smollm2-135m-instruct"
DIM, P, BINS = 40, 24, 10


def network(seed: int = 0, *, wide: bool = True) -> Dense:
    rng = np.random.default_rng(seed)
    sizes = ((DIM + 1, P), (P, 16), (16, BINS)) if wide else ((DIM + 1, P), (P, BINS))
    layers = [(rng.normal(0, size[0] ** -0.5, size), rng.normal(0, 0.1, size[1])) for size in sizes]
    halves = [(weight.astype(np.float16).astype(np.float32), bias.astype(np.float32)) for weight, bias in layers]
    mean, scale = rng.normal(0, 5, DIM + 1), rng.uniform(0.1, 3, DIM + 1)
    return Dense(mean.astype(np.float32), scale.astype(np.float32), tuple(halves))


def with_one_rounding(dense: Dense, hidden: Array, age: Array) -> Array:
    """The network in float64, but for what the hidden states add to the first product, which is rounded to float16."""
    features = np.concatenate([hidden, np.log1p(age)[:, None]], axis=1).astype(np.float64)
    standard = np.clip((features - dense.mean) * dense.scale, -export.LIMIT, export.LIMIT)
    (weight, bias), *rest = dense.layers
    x = (standard[:, :-1] @ weight[:-1]).astype(np.float16) + standard[:, -1:] @ weight[-1:] + bias
    for weight, bias in rest:
        x = np.maximum(x, 0) @ weight + bias
    x = np.exp(x - x.max(axis=1, keepdims=True))
    return np.asarray(x / x.sum(axis=1, keepdims=True), dtype=np.float32)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 30), st.integers(1, 40), st.integers(0, 100_000), st.booleans())
def test_the_cut_changes_nothing_but_the_rounding_of_what_travels(
    seed: int, spread: float, rows: int, oldest: int, wide: bool
) -> None:
    dense, rng = network(seed, wide=wide), np.random.default_rng(seed)
    standard = spread * rng.standard_normal((rows, DIM))
    hidden = (dense.mean[:-1] + standard / dense.scale[:-1]).astype(np.float16)
    age = rng.integers(0, oldest + 1, rows).astype(np.float32)
    found = run(head_graph(dense), hidden=projection_of(dense)(hidden), age=age)
    # A sum that lies between two halves may be rounded either way.
    np.testing.assert_allclose(found, with_one_rounding(dense, hidden, age), atol=2e-3)
    assert np.median(np.abs(found - with_one_rounding(dense, hidden, age))) < 1e-5
    np.testing.assert_allclose(found, run(states_graph(dense), hidden=hidden, age=age), atol=5e-3)


def test_the_projection_holds_the_weights_of_the_graph_as_they_are() -> None:
    found = artefacts.load(PACKAGED).projected
    assert found is not None
    graph = onnx.load(PACKAGED / "model.onnx")
    (weight,) = [numpy_helper.to_array(each) for each in graph.graph.initializer if each.name == "weight0.half"]
    np.testing.assert_array_equal(found.project.weight, weight[:-1])


def test_the_packaged_artefact_says_the_same_of_projected_rows() -> None:
    assert largest_on_random(artefacts.load(PACKAGED, int8=False)) < 5e-4


def test_a_written_network_is_read_back_whole() -> None:
    dense = network()
    found = network_of(states_graph(dense))
    np.testing.assert_array_equal(found.mean, dense.mean)
    np.testing.assert_array_equal(found.scale, dense.scale)
    for layer, expected in zip(found.layers, dense.layers, strict=True):
        for array, wanted in zip(layer, expected, strict=True):
            np.testing.assert_array_equal(array, wanted)


def test_splitting_an_old_artefact_gives_the_files_that_are_packaged(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(PACKAGED, tmp_path / "old"))
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in ("projection.npz", "head.onnx"):
        (folder / name).unlink()
        del manifest["files"][name]
    del manifest["projected_dim"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert artefacts.load(folder).projected is None
    found = split(folder)
    assert found == json.loads((PACKAGED / "manifest.json").read_text())["files"]["projection.npz"][:16]
    for name in ("projection.npz", "head.onnx", "manifest.json"):
        assert (folder / name).read_bytes() == (PACKAGED / name).read_bytes()


def test_a_graph_that_training_did_not_write_is_not_cut() -> None:
    graph = states_graph(network())
    del graph.graph.initializer[:]
    with pytest.raises(ValueError, match="not a graph of `trail train`"):
        network_of(graph)


def test_a_network_whose_sums_are_too_large_for_halves_gets_no_projection() -> None:
    dense = network()
    (weight, bias), *rest = dense.layers
    large = replace(dense, layers=((weight * 30_000, bias), (rest[0][0] / 30_000, rest[0][1]), *rest[1:]))
    assert projected_files(dense)[0] == {"projected_dim": P}
    assert projected_files(large) == ({}, {})
