"""Signatures of artefacts: Ed25519 over manifest.json, which names the hash of every other file."""

from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

FILE = "manifest.sig"
"""64 bytes, in the artefact's folder."""


def public_key(path: Path) -> Ed25519PublicKey:
    """Of a PEM file. Raises ValueError."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: no public key in PEM: {error}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError(f"{path}: a key of another kind than Ed25519 (`openssl genpkey -algorithm ed25519`)")
    return key


def private_key(path: Path) -> Ed25519PrivateKey:
    """Of a PEM file without a password. Raises ValueError."""
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: no private key in PEM: {error}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{path}: a key of another kind than Ed25519 (`openssl genpkey -algorithm ed25519`)")
    return key


def check(manifest: bytes, folder: Path, key: Ed25519PublicKey) -> None:
    """Raises ValueError where the folder's signature is not that of whoever holds the private key."""
    try:
        signature = (folder / FILE).read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{FILE} is missing: only signed artefacts are served here (`trail predictor sign`)") from None
    try:
        key.verify(signature, manifest)
    except InvalidSignature:
        raise ValueError(f"{FILE}: not the signature of this manifest by the key that is trusted here") from None
