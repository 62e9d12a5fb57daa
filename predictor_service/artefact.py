"""A model artefact: the folder that training makes, checked before anything relies on it."""

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import ValidationError

from predictor_service import projected, prompt_stage, signature
from predictor_service.bins import Bins
from predictor_service.classifier import CPU, Classifier, Graph, load_graph
from predictor_service.manifest import Manifest
from predictor_service.posterior import Evidence, Transition
from predictor_service.projected import Projected
from predictor_service.prompt import PromptPredictor
from predictor_service.prompt_section import TextSection
from sidecar.errors import Refused
from sidecar.projection import Projection

CANARY_TOLERANCE, INT8_TOLERANCE = 2e-3, 0.02
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
    projected: Projected | None = None

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def bins_name(self) -> str:
        """Tells whether a stored posterior is over these bins of this artefact."""
        return f"{self.name}#{zlib.crc32(self.bins.edges.tobytes()):08x}"

    @property
    def classifiers(self) -> list[Classifier]:
        """Of rows as they are, and of projected ones."""
        return [self.classifier, *([self.projected.head] if self.projected else [])]

    def reads(self, projection_id: str) -> bool:
        """Whether it understands rows that went through that projection ("": none)."""
        return not projection_id or (self.projected is not None and self.projected.id == projection_id)

    def reader(self, projection_id: str) -> Classifier:
        """The classifier of rows that went through that projection ("": none). Raises Refused."""
        if not projection_id:
            return self.classifier
        if self.projected is None or self.projected.id != projection_id:
            has = f"has {self.projected.id}" if self.projected else "has none"
            raise Refused(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"open.projection: rows come projected by {projection_id}, but model {self.name!r} {has}: start the "
                f"engine again, or serve the artefact with {projection_id} as {self.name!r}",
            )
        return self.projected.head


def load(folder: Path, *, threads: int = 1, int8: bool = True, signed_by: Ed25519PublicKey | None = None) -> Artefact:
    """Reads and checks manifest, hashes, shapes and the canary; on a CPU the classifier is the one in eight bits where
    there is one, unless `int8` forbids it. With `signed_by`, nothing is looked at before the signature. Raises
    ArtefactError."""
    try:
        said = (folder / MANIFEST).read_bytes()
        if signed_by is not None:
            signature.check(said, folder, signed_by)
        manifest = Manifest.model_validate_json(said)
        model = _graph(folder / "model.onnx", manifest.files.model, threads)
        # Small runs (0.6 ms for 64 tokens on one core), which nothing binds: the GPU is left to the classifier.
        prompt = _graph(folder / "prompt.onnx", manifest.files.prompt, threads, providers=[CPU])
        _check_layout("model.onnx", model, _states_inputs(manifest.dim), manifest)
        _check_layout("prompt.onnx", prompt, prompt_stage.graph_inputs(manifest.prompt_stage), manifest)
        classifier = Classifier(model)
        _check_canary(manifest, classifier, manifest.canary.probabilities, CANARY_TOLERANCE)
        if int8 and not model.on_cuda:
            classifier = _in_eight_bits(folder, manifest, threads) or classifier
        cut = _projected(folder, manifest, threads)
        artefact = _assemble(manifest, classifier, prompt, _tokenizers(folder, manifest), cut)
        prompt_stage.check(manifest.prompt_stage, artefact.prompt)
    except ValidationError as error:
        raise ArtefactError(f"{folder}: {MANIFEST}: {_first_problem(error)}") from error
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{folder}: {error}") from error
    return artefact


def _in_eight_bits(folder: Path, manifest: Manifest, threads: int) -> Classifier | None:
    """The classifier of the graph in eight bits; None where there is none, or where this processor computes it wrongly.

    It only makes things faster, so it is no reason to serve nothing. Raises ValueError for a file that is not the one
    that the manifest means.
    """
    if manifest.files.model_int8 is None:
        return None
    content = _content(folder / "model.int8.onnx", manifest.files.model_int8)
    try:
        classifier = Classifier(Graph(content, threads=threads, providers=[CPU]), note="int8")
        _check_canary(manifest, classifier, manifest.canary.int8 or [], INT8_TOLERANCE)
    except Exception as error:  # ONNX Runtime's exceptions share no public base class.
        log = structlog.get_logger("models")
        log.warning("model.int8.onnx is not used; float32 serves", folder=str(folder), reason=str(error))
        return None
    return classifier


def _projected(folder: Path, manifest: Manifest, threads: int) -> Projected | None:
    """What reads projected rows, where the artefact has it; the rows of the canary, projected, must give the same."""
    files = manifest.files
    if files.projection is None or files.head is None:
        return None
    content = _content(folder / "projection.npz", files.projection)
    head = _graph(folder / "head.onnx", files.head, threads)
    _check_layout("head.onnx", head, _states_inputs(manifest.projected_dim), manifest)
    found = projected.assemble(content, head, manifest.dim)
    _check_canary(manifest, found.head, manifest.canary.probabilities, CANARY_TOLERANCE, found.project)
    return found


def _graph(path: Path, sha256: str, threads: int, *, providers: Sequence[str] = ()) -> Graph:
    return load_graph(path, _content(path, sha256), threads=threads, providers=providers)


def _tokenizers(folder: Path, manifest: Manifest) -> dict[str, bytes]:
    if not isinstance(manifest.prompt_stage, TextSection):
        return {}
    files = manifest.files
    hashes = {"llm_tokenizer.json": files.llm_tokenizer, "prompt_tokenizer.json": files.prompt_tokenizer}
    return {name: _content(folder / name, sha256 or "") for name, sha256 in hashes.items()}


def _content(path: Path, sha256: str) -> bytes:
    content = path.read_bytes()
    actual = hashlib.sha256(content).hexdigest()
    if actual != sha256:
        raise ValueError(f"{path.name}: sha256 is {actual}, the manifest says {sha256}")
    return content


def _check_layout(file: str, graph: Graph, inputs: Mapping[str, Any], manifest: Manifest) -> None:
    actual = {name: (kind, _lengths(shape)) for name, (kind, shape) in graph.inputs.items()}
    if actual != inputs:
        raise ValueError(f"{file}: inputs are {actual}, the manifest means {inputs}")
    if graph.bins != len(manifest.edges):
        raise ValueError(f"{file}: {graph.bins} bins, the manifest has {len(manifest.edges)} edges")


def _states_inputs(dim: int | None) -> dict[str, tuple[str, list[int | None]]]:
    return {"hidden": ("tensor(float16)", [dim]), "age": ("tensor(float)", [])}


def _lengths(shape: list[Any]) -> list[int | None]:
    """Of each axis but the first, which is the batch; None where any length will do, whatever ONNX calls it."""
    return [size if isinstance(size, int) else None for size in shape[1:]]


def _assemble(
    manifest: Manifest,
    classifier: Classifier,
    prompt: Graph,
    tokenizers: Mapping[str, bytes],
    cut: Projected | None,
) -> Artefact:
    return Artefact(
        manifest=manifest,
        bins=Bins(np.array(manifest.edges), np.array(manifest.representatives)),
        transition=Transition(np.array(manifest.rates), absorbing=manifest.absorbing),
        evidence=Evidence(np.array(manifest.prior), manifest.tau, manifest.floor, manifest.forgetting),
        classifier=classifier,
        prompt=prompt_stage.build(manifest.prompt_stage, prompt, tokenizers),
        projected=cut,
    )


def _check_canary(
    manifest: Manifest,
    classifier: Classifier,
    probabilities: Sequence[Sequence[float]],
    tolerance: float,
    project: Projection | None = None,
) -> None:
    canary = manifest.canary
    rng = np.random.default_rng(canary.hidden_seed)
    hidden = rng.standard_normal((canary.rows, manifest.dim)).astype(np.float16)
    actual = classifier(hidden if project is None else project(hidden), np.array(canary.ages))
    expected = np.array(probabilities)
    if expected.shape != actual.shape:
        raise ValueError(f"canary.probabilities: shape {expected.shape} instead of {actual.shape}")
    error = float(np.abs(actual - expected).max())
    if not error <= tolerance:
        which = "canary" if project is None else "canary, projected"
        raise ValueError(f"{which}: probabilities are off by {error:.4f} (limit {tolerance})")


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"])
    return f"{place}: {problem['msg']}" if place else problem["msg"]
