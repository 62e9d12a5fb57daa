"""The artefact in the package is the one that its manifest and the published figures describe."""

import hashlib
import json
from pathlib import Path

import predictor_service
from predictor_service.manifest import Manifest

MODEL = Path(predictor_service.__file__).parent / "models" / "smollm2-135m-instruct"
FIGURES = Path(__file__).parents[3] / "benchmarks" / "results" / "predictor-smollm2.json"


def test_files_match_their_hashes_and_stay_small() -> None:
    manifest = Manifest.model_validate(json.loads((MODEL / "manifest.json").read_text()))
    for name, digest in (("model.onnx", manifest.files.model), ("prompt.onnx", manifest.files.prompt)):
        assert hashlib.sha256((MODEL / name).read_bytes()).hexdigest() == digest
    assert sum(file.stat().st_size for file in MODEL.iterdir()) < 8e6


def test_published_figures_are_the_manifests() -> None:
    manifest, figures = (json.loads(path.read_text()) for path in (MODEL / "manifest.json", FIGURES))
    assert figures["metrics"] == manifest["metrics"]
    assert figures["artefact"]["files"] == manifest["files"]
