"""With a public key, only what the holder of the private one has signed is served."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from typer.testing import CliRunner

from predictor_service import signature
from predictor_service.artefact import ArtefactError, load
from predictor_service.catalogue import Catalogue
from predictor_service.sign import app
from tests import artefacts


class Keys:
    """A pair, and its files in PEM."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.private = Ed25519PrivateKey.generate()
        self.private_file, self.public_file = folder / "key.pem", folder / "key.pub"
        self.private_file.write_bytes(self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self.public_file.write_bytes(
            self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
        self.public = signature.public_key(self.public_file)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


@pytest.fixture
def signed(tmp_path: Path, keys: Keys) -> Path:
    folder = artefacts.make(tmp_path / "models" / "tiny")
    done = CliRunner().invoke(app, [str(folder), "--key", str(keys.private_file)])
    assert done.exit_code == 0, done.output
    return folder


def test_what_was_signed_is_served_with_and_without_the_key(signed: Path, keys: Keys) -> None:
    assert load(signed, signed_by=keys.public).name == "tiny"
    assert load(signed).name == "tiny"


def test_an_unsigned_artefact_is_refused_and_told_how_to_sign_it(tmp_path: Path, keys: Keys) -> None:
    folder = artefacts.make(tmp_path / "unsigned")
    with pytest.raises(ArtefactError, match=r"manifest\.sig is missing: only signed.*trail predictor sign"):
        load(folder, signed_by=keys.public)


def test_a_manifest_that_was_changed_after_it_was_signed_is_refused(signed: Path, keys: Keys) -> None:
    artefacts.edit(signed, tau=0.25)
    with pytest.raises(ArtefactError, match="not the signature of this manifest"):
        load(signed, signed_by=keys.public)


def test_a_model_that_was_exchanged_with_its_hash_is_refused(signed: Path, keys: Keys, tmp_path: Path) -> None:
    other = artefacts.make(tmp_path / "other", seed=1)
    for name in ("model.onnx", "prompt.onnx", "manifest.json"):
        (signed / name).write_bytes((other / name).read_bytes())
    assert load(signed).name == "tiny"
    with pytest.raises(ArtefactError, match="not the signature of this manifest"):
        load(signed, signed_by=keys.public)


@pytest.mark.parametrize("name", ["model.onnx", "prompt.onnx"])
def test_a_file_that_was_exchanged_alone_is_refused_with_or_without_a_key(signed: Path, keys: Keys, name: str) -> None:
    (signed / name).write_bytes((signed / name).read_bytes() + b"\0")
    for key in (keys.public, None):
        with pytest.raises(ArtefactError, match=rf"{name}: sha256 is"):
            load(signed, signed_by=key)


def test_the_signature_of_somebody_else_is_refused(signed: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="not the signature of this manifest"):
        load(signed, signed_by=Keys(tmp_path / "others").public)


def test_nothing_of_an_unsigned_manifest_is_read(tmp_path: Path, keys: Keys) -> None:
    folder = artefacts.make(tmp_path / "unsigned")
    (folder / "manifest.json").write_text(json.dumps({"name": "?"}))
    with pytest.raises(ArtefactError, match=r"manifest\.sig"):
        load(folder, signed_by=keys.public)


def test_an_unsigned_artefact_never_replaces_a_signed_one(signed: Path, keys: Keys) -> None:
    catalogue = Catalogue([signed.parent], signed_by=keys.public)
    catalogue.refresh()
    before = catalogue.get("tiny")
    artefacts.make(signed, seed=2)
    artefacts.make(signed.parent / "new", name="new")
    catalogue.refresh()
    assert catalogue.get("tiny") is before
    assert catalogue.names == ["tiny"]


def test_a_key_of_another_kind_is_refused(tmp_path: Path, keys: Keys) -> None:
    other = tmp_path / "ec.pem"
    key = generate_private_key(SECP256R1())
    other.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(ValueError, match=r"ec\.pem.*another kind than Ed25519"):
        signature.public_key(other)
    with pytest.raises(ValueError, match="no public key in PEM"):
        signature.public_key(keys.private_file)
    with pytest.raises(ValueError, match="no private key in PEM"):
        signature.private_key(keys.public_file)
