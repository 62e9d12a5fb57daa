"""Trains a tiny network and follows it into the artefact that the service reads."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from predictor_service.manifest import Manifest
from predictor_service.training.export import Artefact, prompt_graph, run, state_features, states_graph, write
from predictor_service.training.labels import leaving_rates, log_edges
from predictor_service.training.networks import Dense
from predictor_service.training.refinement import Refinement

LAYERS, HIDDEN, BUCKETS = (3, 5), 16, 32
EDGES = log_edges(8, 4, 128)


def _dense(features: int, seed: int) -> Dense:
    rng = np.random.default_rng(seed)
    sizes = [features, 24, 12, len(EDGES)]
    layers = tuple(
        (rng.normal(0, a**-0.5, (a, b)).astype(np.float32), rng.normal(0, 0.1, b).astype(np.float32))
        for a, b in zip(sizes, sizes[1:], strict=False)
    )
    mean = rng.normal(0, 1, features).astype(np.float32)
    return Dense(mean, rng.uniform(0.5, 2, features).astype(np.float32), layers)


PROMPT = _dense(BUCKETS + 1, 1)


def _artefact() -> Artefact:
    return Artefact(
        name="tiny",
        served_model="none",
        layers=LAYERS,
        hidden_size=HIDDEN,
        states=_dense(len(LAYERS) * HIDDEN + 1, 0),
        prompt={"prompt_buckets": BUCKETS},
        prompt_files={"prompt.onnx": prompt_graph(PROMPT).SerializeToString()},
        edges=EDGES,
        representatives=EDGES.astype(float),
        refinement=Refinement(leaving_rates(EDGES, 0.01), np.full(8, 1 / 8), tau=0.2, floor=1e-4, forgetting=0.8),
        interval_levels=(0.08, 0.92),
        training={},
        metrics={},
    )


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_the_states_graph_computes_what_the_network_computes(rows: int) -> None:
    rng, dense = np.random.default_rng(4), _artefact().states
    hidden = (rng.standard_normal((rows, len(LAYERS) * HIDDEN)) * 5).astype(np.float16)
    age = rng.integers(0, 1000, rows).astype(np.float32)
    p = run(states_graph(dense), hidden=hidden, age=age)
    assert p.shape == (rows, len(EDGES))
    assert p.dtype == np.float32
    assert p == pytest.approx(dense.probabilities(state_features(hidden, age)), abs=2e-3)


def test_an_outlier_in_a_hidden_state_still_gives_a_distribution() -> None:
    hidden = np.full((1, len(LAYERS) * HIDDEN), 65504, dtype=np.float16)
    p = run(states_graph(_artefact().states), hidden=hidden, age=np.zeros(1, dtype=np.float32))
    assert np.isfinite(p).all()
    assert p.sum() == pytest.approx(1.0, abs=1e-5)


def test_the_prompt_graph_computes_what_the_network_computes() -> None:
    features = np.random.default_rng(5).poisson(0.3, (3, BUCKETS + 1)).astype(np.float32)
    assert run(prompt_graph(PROMPT), features=features) == pytest.approx(PROMPT.probabilities(features), abs=2e-3)


def test_the_manifest_is_what_the_service_accepts_and_its_hashes_and_canary_hold(tmp_path: Path) -> None:
    write(_artefact(), tmp_path)
    manifest = Manifest.model_validate(json.loads((tmp_path / "manifest.json").read_text()))
    for name, digest in (("model.onnx", manifest.files.model), ("prompt.onnx", manifest.files.prompt)):
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    assert (manifest.tau, manifest.forgetting, manifest.floor) == (0.2, 0.8, 1e-4)
    assert manifest.interval_levels == (0.08, 0.92)
    canary = manifest.canary
    hidden = np.random.default_rng(canary.hidden_seed).standard_normal((canary.rows, manifest.dim)).astype(np.float16)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (p,) = session.run(None, {"hidden": hidden, "age": np.array(canary.ages, dtype=np.float32)})
    assert p == pytest.approx(np.array(canary.probabilities), abs=1e-5)
