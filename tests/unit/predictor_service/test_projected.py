"""An artefact with files for projected rows: when it is good, and whose rows it reads."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from predictor_service.artefact import ArtefactError, load
from sidecar import projection
from sidecar.errors import Refused
from sidecar.projection import Projection
from tests import artefacts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return artefacts.make(tmp_path / "tiny", projected=True)


def test_it_reads_rows_as_they_are_and_projected_alike(folder: Path) -> None:
    artefact, ages = load(folder), np.arange(50)
    assert artefact.projected is not None
    hidden = np.random.default_rng(0).standard_normal((50, 16)).astype(np.float16)
    cut = artefact.reader(artefact.projected.id)
    whole = artefact.reader("")
    assert (whole.dim, cut.dim) == (16, artefacts.WIDTH)
    np.testing.assert_allclose(cut(artefact.projected.project(hidden), ages), whole(hidden, ages), atol=2e-3)


def test_one_of_another_projection_is_refused_by_both_ids(folder: Path, tmp_path: Path) -> None:
    artefact, old = load(folder), load(artefacts.make(tmp_path / "old"))
    assert artefact.projected is not None
    assert artefact.reads("")
    assert artefact.reads(artefact.projected.id)
    assert not artefact.reads("feed")
    assert not old.reads(artefact.projected.id)
    with pytest.raises(Refused, match=f"projected by feed, but model 'tiny' has {artefact.projected.id}: start the"):
        artefact.reader("feed")
    with pytest.raises(Refused, match="model 'tiny' has none"):
        old.reader(artefact.projected.id)


def other_weights(folder: Path) -> None:
    found = projection.unpack((folder / "projection.npz").read_bytes())
    replace_file(folder, Projection(found.mean, found.scale, found.limit, found.weight[::-1].copy()).pack())


def other_dim(folder: Path) -> None:
    found = projection.unpack((folder / "projection.npz").read_bytes())
    replace_file(folder, Projection(found.mean, found.scale, found.limit, found.weight[:, :5].copy()).pack())


def replace_file(folder: Path, content: bytes) -> None:
    (folder / "projection.npz").write_bytes(content)
    edit_files(folder, {"projection.npz": artefacts.sha256(content)})


def edit_files(folder: Path, changes: dict[str, Any]) -> None:
    files = json.loads((folder / "manifest.json").read_text())["files"] | changes
    artefacts.edit(folder, files={name: sha256 for name, sha256 in files.items() if sha256})


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda folder: artefacts.edit(folder, projected_dim=None), "projected_dim: .* must be given together"),
        (lambda folder: edit_files(folder, {"head.onnx": None}), "projected_dim: .* must be given together"),
        (lambda folder: artefacts.edit(folder, projected_dim=13), r"head\.onnx: inputs are"),
        (lambda folder: (folder / "head.onnx").write_bytes(b"damaged"), r"head\.onnx: sha256 is"),
        (lambda folder: (folder / "projection.npz").write_bytes(b"damaged"), r"projection\.npz: sha256 is"),
        (lambda folder: replace_file(folder, b"damaged"), r"projection\.npz: not a projection"),
        (other_dim, r"projection\.npz: weight: \[16, 5\], the manifest means \[16, 12\]"),
        (other_weights, "canary, projected: probabilities are off"),
    ],
)
def test_a_bad_one_is_refused_by_file_or_field(folder: Path, spoil: Callable[[Path], object], named: str) -> None:
    load(folder)
    spoil(folder)
    with pytest.raises(ArtefactError, match=named):
        load(folder)


def test_a_projection_is_packed_and_unpacked_whole_and_always_alike(folder: Path) -> None:
    content = (folder / "projection.npz").read_bytes()
    found = projection.unpack(content)
    assert found.pack() == content
    assert found.dim == artefacts.WIDTH


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda p: Projection(p.mean[:-1], p.scale, p.limit, p.weight),
        lambda p: Projection(p.mean, p.scale, p.limit, p.weight[0]),
        lambda p: Projection(p.mean.astype(np.float64), p.scale, p.limit, p.weight),
        lambda p: Projection(p.mean, p.scale, p.limit, p.weight.astype(np.float32)),
        lambda p: Projection(p.mean, p.scale, p.mean, p.weight),
    ],
)
def test_arrays_that_make_no_projection_are_refused(folder: Path, spoilt: Callable[[Any], Projection]) -> None:
    good = projection.unpack((folder / "projection.npz").read_bytes())
    with pytest.raises(ValueError, match="instead of|do not fit"):
        projection.unpack(spoilt(good).pack())
