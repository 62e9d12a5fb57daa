import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from predictor_service import classifier
from predictor_service.artefact import ArtefactError, load
from predictor_service.catalogue import Catalogue
from predictor_service.classifier import CPU, CUDA
from predictor_service.prompt import Prompt, features
from sidecar.errors import Refused
from tests import artefacts


def test_a_good_artefact_loads_and_predicts_distributions(tmp_path: Path) -> None:
    artefact = load(artefacts.make(tmp_path))
    hidden = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32)
    p = artefact.classifier(hidden, np.arange(5))
    assert p.shape == (5, 10)
    np.testing.assert_allclose(p.sum(axis=1), 1.0, rtol=1e-5)
    totals = artefact.prompt([Prompt(np.array([1, 2, 9], dtype=np.uint32), 3)])
    np.testing.assert_allclose(totals.sum(axis=1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("kind", ["counts", "tokens"])
def test_the_prompt_stage_runs_on_the_cpu_whatever_the_classifier_runs_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    asked: list[list[str]] = []
    session = onnxruntime.InferenceSession

    def noting(*arguments: Any, providers: list[str], **more: Any) -> Any:
        asked.append(providers)
        return session(*arguments, providers=[CPU], **more)

    monkeypatch.setattr(classifier, "_providers", lambda: (CUDA, CPU))
    monkeypatch.setattr(onnxruntime, "InferenceSession", noting)
    load(artefacts.make(tmp_path, prompt_kind=kind))
    assert asked[-2:] == [[CUDA, CPU], [CPU]], "model.onnx, then prompt.onnx"


def test_prompt_features_count_token_ids_by_bucket() -> None:
    prompt = Prompt(np.array([1, 5, 9, 2], dtype=np.uint32), 4)
    expected = np.log([1, 4, 2, 1, 4])
    np.testing.assert_allclose(features([prompt], 4), [expected], rtol=1e-6)
    assert np.isfinite(features([Prompt(np.zeros(0, dtype=np.uint32), 0)], 4)).all()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"format": 2}, "format"),
        ({"edges": [0, 2, 1, 4, 8, 16, 32, 64, 128, 256]}, "edges"),
        ({"edges": [0, 1, 2]}, "representatives"),
        ({"representatives": [5.0, *artefacts.REPRESENTATIVES[1:]]}, "representatives"),
        ({"rates": [0.5] * 9}, "rates"),
        ({"rates": [0.5] * 9 + [1.0]}, "rates"),
        ({"prior": [0.2] * 10}, "prior"),
        ({"prior": [0.0, 0.2] + [0.1] * 8}, "prior"),
        ({"tau": 0}, "tau"),
        ({"floor": 0.5}, "floor"),
        ({"dim": 17}, "dim"),
        ({"hidden_size": 8, "dim": 8}, "model.onnx: inputs"),
        ({"prompt_buckets": 9}, "prompt.onnx: inputs"),
        ({"name": "no spaces"}, "name"),
        ({"dtype": "float64"}, "dtype"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_bad_manifest_is_refused_naming_the_field(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    folder = artefacts.make(tmp_path)
    artefacts.edit(folder, **changes)
    with pytest.raises(ArtefactError, match=named):
        load(folder)


def test_fewer_bins_than_the_graph_gives_are_refused(tmp_path: Path) -> None:
    folder = artefacts.make(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    shorter = {name: manifest[name][:9] for name in ("edges", "representatives", "rates")}
    artefacts.edit(folder, **shorter, prior=[1 / 9] * 9)
    with pytest.raises(ArtefactError, match="10 bins, the manifest has 9"):
        load(folder)


def test_a_changed_file_is_refused_by_its_hash(tmp_path: Path) -> None:
    folder = artefacts.make(tmp_path)
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ArtefactError, match=r"model\.onnx: sha256"):
        load(folder)


def test_a_graph_that_answers_differently_is_refused_by_the_canary(tmp_path: Path) -> None:
    folder = artefacts.make(tmp_path)
    canary = json.loads((folder / "manifest.json").read_text())["canary"]
    artefacts.edit(folder, canary=canary | {"hidden_seed": 8})
    with pytest.raises(ArtefactError, match="canary: probabilities are off"):
        load(folder)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    folder = artefacts.make(tmp_path)
    (folder / "prompt.onnx").unlink()
    with pytest.raises(ArtefactError, match=r"prompt\.onnx"):
        load(folder)


def test_a_bad_artefact_never_replaces_a_good_one_and_a_good_one_does(tmp_path: Path) -> None:
    folder = artefacts.make(tmp_path / "a", name="m")
    catalogue = Catalogue([tmp_path])
    catalogue.refresh()
    first = catalogue.get("m")
    artefacts.edit(folder, tau=7)
    catalogue.refresh()
    assert catalogue.get("m") is first
    artefacts.make(folder, name="m", seed=1)
    catalogue.refresh()
    assert catalogue.get("m").manifest.files != first.manifest.files


def test_an_unknown_name_is_refused_with_the_names_there_are(tmp_path: Path) -> None:
    artefacts.make(tmp_path / "a", name="one")
    artefacts.make(tmp_path / "b", name="two")
    catalogue = Catalogue([tmp_path], default="two")
    assert catalogue.problem
    catalogue.refresh()
    assert not catalogue.problem
    assert catalogue.get().name == "two"
    with pytest.raises(Refused, match="one, two"):
        catalogue.get("three")
