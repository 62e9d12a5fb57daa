"""The checked-in Python of the contract, its vectors, and what is generated for other languages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from tests.debian import needed
from trail.v1 import predictor_pb2, scheduler_pb2, state_pb2

PROTO = Path(__file__).parents[2] / "proto"
VECTORS = sorted((PROTO / "vectors").glob("*.json"))


def test_the_checked_in_code_is_what_the_contract_generates(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run([PROTO / "generate.sh", tmp_path], check=True, capture_output=True, env=os.environ | {"PATH": path})
    fresh = {file.name: file.read_text() for file in (tmp_path / "trail" / "v1").iterdir()}
    checked_in = {file.name: file.read_text() for file in (PROTO / "trail" / "v1").glob("*_pb2*")}
    assert fresh.keys() == checked_in.keys()
    stale = [name for name in fresh if fresh[name] != checked_in[name]]
    assert not stale, f"run `make proto`: {stale}"


def test_the_checked_in_vectors_are_what_their_command_writes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, PROTO / "vectors" / "generate.py", tmp_path], check=True)
    fresh = {file.name: file.read_text() for file in tmp_path.iterdir()}
    checked_in = {file.name: file.read_text() for file in VECTORS}
    assert fresh == checked_in, "run `make proto`"


@pytest.mark.parametrize("file", VECTORS, ids=lambda file: file.stem)
def test_vectors_are_read_and_written_byte_for_byte(file: Path) -> None:
    for vector in json.loads(file.read_text()):
        kind = GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(vector["message"]))
        content = bytes.fromhex(vector["hex"])
        assert ParseDict(vector["json"], kind()).SerializeToString(deterministic=True) == content, vector["name"]
        assert MessageToDict(kind.FromString(content)) == vector["json"], vector["name"]


def test_every_message_of_the_streams_has_a_vector() -> None:
    """Each field too: what no vector holds could be renumbered without a test that fails."""
    held: set[str] = set()
    for file in VECTORS:
        for vector in json.loads(file.read_text()):
            kind = GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(vector["message"]))
            held |= _fields(kind.FromString(bytes.fromhex(vector["hex"])))
    messages = (
        predictor_pb2.StreamPredictRequest, predictor_pb2.StreamPredictResponse, scheduler_pb2.CoordinateRequest,
        scheduler_pb2.CoordinateResponse, state_pb2.StoredPosterior, state_pb2.PublishedPredictions,
    )  # fmt: skip
    wanted = {name for message in messages for name in _field_names(message.DESCRIPTOR)}
    assert wanted - held == set()


@pytest.mark.parametrize(
    ("language", "program", "package"),
    [
        ("go", "protoc-gen-go-grpc", "protobuf-compiler protoc-gen-go protoc-gen-go-grpc"),
        ("java", "grpc_java_plugin", "protobuf-compiler protobuf-compiler-grpc-java-plugin"),
        ("cpp", "grpc_cpp_plugin", "protobuf-compiler protobuf-compiler-grpc"),
    ],
)
def test_stubs_are_generated_for(language: str, program: str, package: str, tmp_path: Path) -> None:
    needed(program, package)
    needed("protoc", package)
    subprocess.run([PROTO / "stubs.sh", tmp_path, language], check=True, capture_output=True)
    content = "".join(file.read_text() for file in (tmp_path / language).rglob("*") if file.is_file())
    assert "StreamPredictRequest" in content
    assert "SchedulerAdminService" in content


def _fields(message: Message) -> set[str]:
    """Full names of all fields that are set, at any depth."""
    found: set[str] = set()
    for field, value in message.ListFields():
        found.add(field.full_name)
        if field.message_type is not None:
            for each in value if field.is_repeated else [value]:
                found |= _fields(each)
    return found


def _field_names(descriptor: Descriptor) -> set[str]:
    found: set[str] = set()
    for field in descriptor.fields:
        found.add(field.full_name)
        if field.message_type is not None:
            found |= _field_names(field.message_type)
    return found
