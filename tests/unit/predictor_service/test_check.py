"""What `trail predictor check` tells of an artefact, through the command itself."""

import hashlib
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sidecar.cli.main import app
from tests import artefacts


def check(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["predictor", "check", *arguments])


def test_a_good_artefact_is_described_and_timed(tmp_path: Path) -> None:
    folder = artefacts.make(tmp_path / "tiny", layers=(3, 5))
    figures = {"mae_tokens": {"value": 71.04}, "kendall_tau_snapshot": {"value": 0.62}}
    artefacts.edit(folder, metrics=figures, training={"opset": 17, "prompts": 4000})
    result = check(str(folder))
    assert result.exit_code == 0, result.output
    model, manifest = (
        hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in ("model.onnx", "manifest.json")
    )
    for told in (
        "tiny",
        "random",
        "3 5 of 16, so dim 32 (float16)",
        "10, the open one from 256 tokens",
        "tau 0.5",
        "17",
        "prompts 4000",
        "MAE 71.0 tokens, Kendall tau 0.620",
        "cpu",
        model,
        manifest,
    ):
        assert told in result.stdout
    for batch in (1, 32, 256):
        assert result.stdout.count(f"batch {batch}: ") == 2


def test_what_an_artefact_does_not_say_is_said_to_be_missing(tmp_path: Path) -> None:
    assert check(str(artefacts.make(tmp_path))).stdout.count("not said") == 3


@pytest.mark.parametrize(
    ("break_it", "named"),
    [
        (lambda folder: artefacts.edit(folder, tau=7), "manifest.json: tau: "),
        (lambda folder: (folder / "prompt.onnx").unlink(), "prompt.onnx"),
        (lambda folder: (folder / "model.onnx").write_bytes(b"\0"), "model.onnx: sha256 is "),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json: "),
    ],
)
def test_a_bad_artefact_exits_with_1_and_one_line_naming_file_and_field(
    tmp_path: Path, break_it: object, named: str
) -> None:
    folder = artefacts.make(tmp_path / "tiny")
    assert callable(break_it)
    break_it(folder)
    result = check(str(folder))
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"bad artefact: {folder}")
    assert named in result.stderr


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("none", "there is no such folder"),
        ("tiny/manifest.json", "a file; give the folder that holds manifest.json"),
        ("", "there is no manifest.json in it; give one of the artefacts in it: tiny"),
        ("empty", "there is no manifest.json in it"),
        ("half", "prompt.onnx is missing"),
    ],
)
def test_what_is_not_there_is_said_in_words(tmp_path: Path, path: str, said: str) -> None:
    artefacts.make(tmp_path / "tiny")
    (tmp_path / "empty").mkdir()
    if path == "half":
        (artefacts.make(tmp_path / "half") / "prompt.onnx").unlink()
    result = check(str(tmp_path / path))
    assert result.exit_code == 1
    assert result.stderr == f"bad artefact: {tmp_path / path}: {said}\n"


def test_the_command_beside_it_still_passes_its_arguments_to_the_service(capfd: pytest.CaptureFixture[str]) -> None:
    result = CliRunner().invoke(app, ["predictor", "--canary-model", "x"])
    assert result.exit_code == 2
    assert "setting canary_model" in result.stderr + capfd.readouterr().err
