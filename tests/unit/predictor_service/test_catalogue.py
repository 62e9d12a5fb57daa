"""Artefacts that come, change, break and go while a service reads its folders again and again."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from predictor_service.artefact import load
from predictor_service.catalogue import Catalogue
from sidecar.errors import Refused
from tests import artefacts


def refused() -> float:
    return REGISTRY.get_sample_value("trail_predictor_bad_artefacts_total") or 0.0


def looked(folder: Path, *, default: str = "") -> Catalogue:
    catalogue = Catalogue([folder], default=default)
    catalogue.refresh()
    return catalogue


def sha256(catalogue: Catalogue, name: str = "m") -> str:
    return catalogue.get(name).manifest.files.model


def test_a_new_folder_is_taken_up_and_one_that_did_not_change_is_not_read_again(tmp_path: Path) -> None:
    artefacts.make(tmp_path / "m", name="m")
    catalogue = looked(tmp_path)
    first = catalogue.get("m")
    artefacts.make(tmp_path / "n", name="n")
    catalogue.refresh(settled=False)
    assert catalogue.names == ["m", "n"]
    assert catalogue.get("m") is first


def test_files_that_were_written_again_with_the_same_content_replace_nothing(tmp_path: Path) -> None:
    artefacts.make(tmp_path / "m", name="m")
    catalogue = looked(tmp_path)
    first = catalogue.get("m")
    artefacts.make(tmp_path / "m", name="m")
    catalogue.refresh()
    assert catalogue.get("m") is first


def test_a_later_artefact_replaces_one_of_its_name_and_the_earlier_folder_put_back_is_the_way_back(
    tmp_path: Path,
) -> None:
    artefacts.make(tmp_path / "m", name="m", seed=1)
    catalogue = looked(tmp_path)
    first, digest = catalogue.get("m"), sha256(catalogue)
    (tmp_path / "m").rename(tmp_path / ".m.old")
    artefacts.make(tmp_path / ".m.new", name="m", seed=2)
    (tmp_path / ".m.new").rename(tmp_path / "m")
    catalogue.refresh(settled=False)
    assert sha256(catalogue) != digest
    assert not catalogue.serves(first)
    shutil.rmtree(tmp_path / "m")
    (tmp_path / ".m.old").rename(tmp_path / "m")
    catalogue.refresh(settled=False)
    assert sha256(catalogue) == digest


def test_a_half_written_folder_is_no_error_until_it_stays_as_it_is(tmp_path: Path) -> None:
    whole, half = artefacts.make(tmp_path / "elsewhere" / "n", name="n"), tmp_path / "models" / "n"
    half.mkdir(parents=True)
    catalogue = looked(tmp_path / "models")
    before = refused()
    for file in ("model.onnx", "manifest.json"):
        shutil.copy(whole / file, half)
        catalogue.refresh(settled=False)
        assert (catalogue.names, refused()) == ([], before)
    with capture_logs() as logs:
        for _ in range(3):
            catalogue.refresh(settled=False)
    assert refused() == before + 1, "once, though it was looked at three times"
    assert [line["event"] for line in logs] == ["bad artefact"]
    assert "prompt.onnx" in logs[0]["error"]
    shutil.copy(whole / "prompt.onnx", half)
    catalogue.refresh(settled=False)
    assert catalogue.names == ["n"]


def test_an_operator_who_asks_hears_at_once_and_every_time(tmp_path: Path) -> None:
    artefacts.edit(artefacts.make(tmp_path / "m", name="m"), tau=7)
    before = refused()
    catalogue = looked(tmp_path)
    assert refused() == before + 1
    catalogue.refresh(settled=True)
    assert refused() == before + 2
    assert catalogue.names == []


def test_a_corrupt_artefact_is_refused_and_the_old_one_still_serves(tmp_path: Path) -> None:
    folder = artefacts.make(tmp_path / "m", name="m")
    catalogue = looked(tmp_path)
    first, before = catalogue.get("m"), refused()
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"\0")
    catalogue.refresh()
    assert catalogue.get("m") is first
    assert refused() == before + 1


def test_a_graph_that_fails_as_it_runs_is_refused_like_any_other(tmp_path: Path) -> None:
    folder = artefacts.make(tmp_path / "m", name="m")
    model = onnx.load(folder / "model.onnx")
    # Three rows, whatever comes: it loads, and its first run fails.
    model.graph.initializer.append(numpy_helper.from_array(np.array([3, 16]), "shape"))
    model.graph.node.insert(1, helper.make_node("Reshape", ["hidden32", "shape"], ["three_rows"]))
    model.graph.node[4].input[0] = "three_rows"
    onnx.save(model, folder / "model.onnx")
    digest = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    files = json.loads((folder / "manifest.json").read_text())["files"]
    artefacts.edit(folder, files=files | {"model.onnx": digest})
    before = refused()
    with capture_logs() as logs:
        catalogue = looked(tmp_path)
    assert (catalogue.names, refused()) == ([], before + 1)
    assert "Reshape" in logs[0]["error"]


def test_a_name_keeps_its_layers_for_engines_tap_them(tmp_path: Path) -> None:
    folder = artefacts.make(tmp_path / "m", name="m", layers=(3,))
    catalogue = looked(tmp_path)
    first = catalogue.get("m")
    artefacts.make(folder, name="m", layers=(3, 5))
    with capture_logs() as logs:
        catalogue.refresh()
    assert catalogue.get("m") is first
    assert "tap [3] of 16: give it another name" in logs[0]["error"]
    artefacts.make(folder, name="wider", layers=(3, 5))
    catalogue.refresh()
    assert catalogue.names == ["m", "wider"]


def test_of_two_folders_with_one_name_the_first_serves(tmp_path: Path) -> None:
    artefacts.make(tmp_path / "a", name="m", seed=1)
    artefacts.make(tmp_path / "b", name="m", seed=2)
    with capture_logs() as logs:
        catalogue = looked(tmp_path)
    digest = sha256(catalogue)
    assert [line["error"] for line in logs if line["event"] == "bad artefact"] == [
        f"{tmp_path / 'b'}: manifest.json: name: 'm' is that of {tmp_path / 'a'} already"
    ]
    shutil.rmtree(tmp_path / "a")
    catalogue.refresh()
    assert sha256(catalogue) != digest


def test_what_was_refused_for_its_name_is_taken_by_polling_once_the_name_is_free(tmp_path: Path) -> None:
    for folder, seed in (("a", 1), ("b", 2), ("c", 3)):
        artefacts.make(tmp_path / folder, name="m", seed=seed)
    catalogue = looked(tmp_path)
    digest, before = sha256(catalogue), refused()
    catalogue.refresh(settled=False)
    assert sha256(catalogue) == digest
    shutil.rmtree(tmp_path / "a")
    catalogue.refresh(settled=False)
    assert sha256(catalogue) == load(tmp_path / "b").manifest.files.model
    catalogue.refresh(settled=False)
    assert refused() == before, "c was told of at the start, and nothing has changed for it"
    artefacts.edit(tmp_path / "b", name="n")
    catalogue.refresh(settled=False)
    assert sha256(catalogue) == load(tmp_path / "c").manifest.files.model
    assert catalogue.names == ["m", "n"]
    artefacts.make(tmp_path / "a", name="m", seed=4)
    catalogue.refresh()
    artefacts.edit(tmp_path / "c", name="o")
    catalogue.refresh(settled=False)
    assert sha256(catalogue) == load(tmp_path / "a").manifest.files.model, "in one look, though a comes before c"


def test_a_folder_that_comes_back_as_it_was_replaces_what_took_its_name_meanwhile(tmp_path: Path) -> None:
    artefacts.make(tmp_path / "old", name="m", seed=1)
    catalogue = looked(tmp_path)
    digest = sha256(catalogue)
    (tmp_path / "old").rename(tmp_path / ".old")
    artefacts.make(tmp_path / "new", name="m", seed=2)
    catalogue.refresh(settled=False)
    assert sha256(catalogue) != digest
    shutil.rmtree(tmp_path / "new")
    catalogue.refresh(settled=False)
    (tmp_path / ".old").rename(tmp_path / "old")
    catalogue.refresh(settled=False)
    assert sha256(catalogue) == digest
    (tmp_path / "old").rename(tmp_path / "renamed")
    with capture_logs() as logs:
        catalogue.refresh(settled=False)
    assert not logs, "it still has a folder"


def test_what_must_not_take_a_freed_name_is_refused_aloud(tmp_path: Path) -> None:
    artefacts.make(tmp_path / "a", name="m", layers=(3,))
    artefacts.make(tmp_path / "b", name="m", layers=(3, 5))
    catalogue = looked(tmp_path)
    before = refused()
    shutil.rmtree(tmp_path / "a")
    for _ in range(3):
        catalogue.refresh(settled=False)
    assert refused() == before + 1
    assert catalogue.get("m").manifest.layers == [3]


def test_what_a_removed_folder_held_is_served_on_with_one_warning(tmp_path: Path) -> None:
    artefacts.make(tmp_path / "m", name="m")
    catalogue = looked(tmp_path)
    first = catalogue.get("m")
    shutil.rmtree(tmp_path / "m")
    with capture_logs() as logs:
        catalogue.refresh(settled=False)
        catalogue.refresh(settled=False)
    assert [(line["log_level"], line["name"]) for line in logs] == [("warning", "m")]
    assert catalogue.get() is first
    assert not catalogue.problem


def test_folders_with_a_leading_dot_are_not_looked_at(tmp_path: Path) -> None:
    artefacts.make(tmp_path / ".m", name="m")
    assert looked(tmp_path).names == []


def test_a_newcomer_never_becomes_the_default_by_its_name(tmp_path: Path) -> None:
    artefacts.make(tmp_path / "m", name="m")
    catalogue = looked(tmp_path)
    artefacts.make(tmp_path / "a", name="a")
    catalogue.refresh()
    assert catalogue.get().name == "m"


def test_a_default_that_comes_later_serves_then(tmp_path: Path) -> None:
    catalogue = looked(tmp_path, default="m")
    with pytest.raises(Refused, match="'m' is not loaded"):
        catalogue.get()
    artefacts.make(tmp_path / "m", name="m")
    catalogue.refresh(settled=False)
    assert catalogue.get().name == "m"


def test_a_default_that_is_not_there_is_warned_of_with_the_names_that_are(tmp_path: Path) -> None:
    for name in ("big", "small"):
        artefacts.make(tmp_path / name, name=name)
    catalogue = Catalogue([tmp_path], default="smal")

    def told(settled: bool) -> list[tuple[str, str]]:
        with capture_logs() as logs:
            catalogue.refresh(settled=settled)
        return [(line["log_level"], line.get("reason", "")) for line in logs if "name no model" in line["event"]]

    assert told(True) == [("warning", "model: 'smal' is not loaded (loaded: big, small)")]
    assert told(False) == [], "once is enough"
    artefacts.make(tmp_path / "third", name="third")
    assert told(False) == [("warning", "model: 'smal' is not loaded (loaded: big, small, third)")]
    artefacts.make(tmp_path / "smal", name="smal")
    assert told(False) == []
    assert not catalogue.problem
