"""A model artefact: the folder that training makes, checked before anything relies on it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from predictor_service.bins import Bins
from predictor_service.classifier import Classifier, Graph, load_graph
from predictor_service.manifest import Manifest
from predictor_service.posterior import Evidence, Transition
from predictor_service.prompt import PromptPredictor

CANARY_TOLERANCE = 2e-3
MANIFEST = "manifest.json"


class ArtefactError(ValueError):
    """An artefact that must not serve; the text names the folder and the field or file."""


@dataclass(frozen=True)
class Artefact:
    """Everything that turns hidden states into posteriors."""

    manifest: Manifest
    bins: Bins
    transition: Transition
    evidence: Evidence
    classifier: Classifier
    prompt: PromptPredictor

    @property
    def name(self) -> str:
        return self.manifest.name


def load(folder: Path, *, threads: int = 1) -> Artefact:
    """Reads and checks manifest, hashes, shapes and the canary. Raises ArtefactError."""
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
        model = _graph(folder / "model.onnx", manifest.files.model, threads)
        prompt = _graph(folder / "prompt.onnx", manifest.files.prompt, threads)
        _check_layout(manifest, model, prompt)
        artefact = _assemble(manifest, model, prompt)
        _check_canary(artefact)
    except ValidationError as error:
        raise ArtefactError(f"{folder}: {MANIFEST}: {_first_problem(error)}") from error
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{folder}: {error}") from error
    return artefact


def _graph(path: Path, sha256: str, threads: int) -> Graph:
    content = path.read_bytes()
    actual = hashlib.sha256(content).hexdigest()
    if actual != sha256:
        raise ValueError(f"{path.name}: sha256 is {actual}, the manifest says {sha256}")
    return load_graph(path, content, threads=threads)


def _check_layout(manifest: Manifest, model: Graph, prompt: Graph) -> None:
    expected: dict[str, dict[str, tuple[str, list[Any]]]] = {
        "model.onnx": {"hidden": ("tensor(float16)", [manifest.dim]), "age": ("tensor(float)", [])},
        "prompt.onnx": {"features": ("tensor(float)", [manifest.prompt_buckets + 1])},
    }
    for (file, inputs), graph in zip(expected.items(), (model, prompt), strict=True):
        # The first axis is the batch, whatever it is called.
        actual = {name: (kind, shape[1:]) for name, (kind, shape) in graph.inputs.items()}
        if actual != inputs:
            raise ValueError(f"{file}: inputs are {actual}, the manifest means {inputs}")
        if graph.bins != len(manifest.edges):
            raise ValueError(f"{file}: {graph.bins} bins, the manifest has {len(manifest.edges)} edges")


def _assemble(manifest: Manifest, model: Graph, prompt: Graph) -> Artefact:
    return Artefact(
        manifest=manifest,
        bins=Bins(np.array(manifest.edges), np.array(manifest.representatives)),
        transition=Transition(np.array(manifest.rates)),
        evidence=Evidence(np.array(manifest.prior), manifest.tau, manifest.floor),
        classifier=Classifier(model),
        prompt=PromptPredictor(prompt, manifest.prompt_buckets),
    )


def _check_canary(artefact: Artefact) -> None:
    canary = artefact.manifest.canary
    rng = np.random.default_rng(canary.hidden_seed)
    hidden = rng.standard_normal((canary.rows, artefact.manifest.dim)).astype(np.float16)
    actual = artefact.classifier(hidden, np.array(canary.ages))
    expected = np.array(canary.probabilities)
    if expected.shape != actual.shape:
        raise ValueError(f"canary.probabilities: shape {expected.shape} instead of {actual.shape}")
    error = float(np.abs(actual - expected).max())
    if not error <= CANARY_TOLERANCE:
        raise ValueError(f"canary: probabilities are off by {error:.4f} (limit {CANARY_TOLERANCE})")


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"])
    return f"{place}: {problem['msg']}" if place else problem["msg"]
