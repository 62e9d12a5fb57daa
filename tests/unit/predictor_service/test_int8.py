"""The graph in eight bits says what the float one says, and serves only where it belongs."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from predictor_service import artefact as artefacts
from predictor_service.training import export
from predictor_service.training.networks import Dense

PACKAGED = Path(artefacts.__file__).parent / "models" / "smollm2-135m-instruct"
DIM, WIDTH, BINS = 64, 32, 10


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(PACKAGED, tmp_path / "artefact"))


def network() -> Dense:
    rng = np.random.default_rng(0)
    sizes = ((DIM + 1, WIDTH), (WIDTH, 16), (16, BINS))
    layers = [(rng.normal(0, size[0] ** -0.5, size), rng.normal(0, 0.1, size[1])) for size in sizes]
    mean, scale = rng.normal(0, 5, DIM + 1), rng.uniform(0.1, 3, DIM + 1)
    halves = [(w.astype(np.float16).astype(np.float32), b.astype(np.float32)) for w, b in layers]
    return Dense(mean.astype(np.float32), scale.astype(np.float32), tuple(halves))


def test_it_says_what_the_network_says() -> None:
    dense, rng = network(), np.random.default_rng(1)
    standard = rng.standard_normal((200, DIM)).astype(np.float32)
    hidden = (standard / dense.scale[:DIM] + dense.mean[:DIM]).astype(np.float16)
    age = rng.integers(0, 2000, 200).astype(np.float32)
    expected = dense.probabilities(export.state_features(hidden, age))
    found = export.run(export.states_graph_int8(dense), hidden=hidden, age=age)
    assert np.abs(found - expected).max() < 0.02
    assert np.abs(found - expected).mean() < 0.002
    # The age is not among the bytes: one further step of it must show.
    later = export.run(export.states_graph_int8(dense), hidden=hidden, age=age + 50)
    moved = dense.probabilities(export.state_features(hidden, age + 50)) - expected
    np.testing.assert_allclose(later - found, moved, atol=0.01)


def test_what_lies_far_out_is_cut_and_not_wrapped_around() -> None:
    dense = network()
    beyond = (np.array([[30.0], [-30.0]]) / dense.scale[:DIM] + dense.mean[:DIM]).astype(np.float16)
    limit = export.INT8_LIMIT * np.array([[1.0], [-1.0]]) / dense.scale[:DIM] + dense.mean[:DIM]
    age = np.zeros(2, dtype=np.float32)
    expected = dense.probabilities(export.state_features(limit.astype(np.float16), age))
    found = export.run(export.states_graph_int8(dense), hidden=beyond, age=age)
    assert np.abs(found - expected).max() < 0.05


def test_it_serves_on_a_cpu_unless_it_is_forbidden(folder: Path) -> None:
    eight, float32 = artefacts.load(folder), artefacts.load(folder, int8=False)
    if float32.classifier.device == "cuda":
        assert eight.classifier.device == "cuda"
        return
    assert (eight.classifier.device, float32.classifier.device) == ("cpu, int8", "cpu")
    hidden = np.random.default_rng(2).standard_normal((50, eight.manifest.dim)).astype(np.float16)
    ages = np.arange(50)
    difference = np.abs(eight.classifier(hidden, ages) - float32.classifier(hidden, ages)).max()
    assert 0 < difference < export.INT8_DIFFERENCE


def test_an_artefact_without_one_serves_as_before(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["model.int8.onnx"], manifest["canary"]["int8"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "int8" not in artefacts.load(folder).classifier.device


def test_where_it_computes_something_else_float32_serves(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["canary"]["int8"][0].reverse()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "int8" not in artefacts.load(folder).classifier.device


@pytest.mark.parametrize("spread", [0.05, 0.3, 1.0, 40.0])
def test_an_artefact_of_any_scale_is_written_with_it(spread: float) -> None:
    dense = network()
    scaled = replace(dense, scale=np.full_like(dense.scale, 1 / spread))
    assert export._agree_in_eight_bits(scaled, export.states_graph(scaled), export.states_graph_int8(scaled))


def test_one_that_strays_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = network()
    whole = export.states_graph(dense)
    monkeypatch.setattr(export, "INT8_LIMIT", 0.5)
    assert not export._agree_in_eight_bits(dense, whole, export.states_graph_int8(dense))


def test_a_damaged_one_is_refused(folder: Path) -> None:
    (folder / "model.int8.onnx").write_bytes(b"damaged")
    if artefacts.load(folder, int8=False).classifier.device != "cpu":
        pytest.skip("the GPU serves, and nobody reads it")
    with pytest.raises(artefacts.ArtefactError, match=r"model\.int8\.onnx: sha256 is"):
        artefacts.load(folder)
