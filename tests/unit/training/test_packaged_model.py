"""The artefacts in the package are those that the published figures describe."""

import json
from pathlib import Path

import pytest

import predictor_service
from predictor_service.artefact import load

MODELS = Path(predictor_service.__file__).parent / "models"
FIGURES = Path(__file__).parents[3] / "benchmarks" / "results" / "accuracy-smollm2-135m.json"


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "smollm2-135m-instruct-trail-recipe"])
def test_a_packaged_artefact_loads_and_stays_small(name: str) -> None:
    assert load(MODELS / name).name == name
    assert sum(file.stat().st_size for file in (MODELS / name).iterdir()) < 1e7


def test_published_figures_are_of_the_packaged_artefact() -> None:
    manifest = json.loads((MODELS / "smollm2-135m-instruct" / "manifest.json").read_text())
    measured = json.loads(FIGURES.read_text())["artefact"]["files"]
    assert measured.items() <= manifest["files"].items()
    assert "model.onnx" in measured
