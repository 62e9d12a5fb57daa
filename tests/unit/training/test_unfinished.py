"""A collection that was stopped is told from one that never began, through the commands themselves."""

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.unit.training.tiny_llm import make_tiny_llm

pytest.importorskip("torch")
pytest.importorskip("transformers")


def train(*arguments: str | Path) -> Result:
    from predictor_service.training.__main__ import app

    return CliRunner().invoke(app, list(map(str, arguments)))


def test_a_stopped_collection_is_told_with_the_command_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm, work, prompts = make_tiny_llm(tmp_path / "llm"), tmp_path / "my work", tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Count to {n}."}) + "\n" for n in range(20)))
    given = ("--llm", llm, "--prompts", prompts, "--backend", "transformers")
    begin = (*given, "--max-tokens", "30", "--samples", "2", "--stop", "a b", "--shard-responses", "4", "--seed", "4")
    made = train("collect", "--work", work, *begin)
    assert made.exit_code == 0, made.output
    shards = sorted((work / "responses").glob("*.npz"))
    assert len(shards) > 2
    # What a kill leaves: nothing is noted before the last shard is there.
    shards[-1].unlink()
    (work / "notes.json").unlink()
    said = ""
    for stage in (("fit", "--llm", llm), ("prompts", "--llm", llm), ("artefact", "--out", "a", "--served-model", "s")):
        failed = train(*stage, "--work", work)
        said = failed.stderr
        assert failed.exit_code == 1
        assert said.count("\n") == 1
        assert f"the collection is unfinished, {len(shards) - 1} of {len(shards)} shards are there" in said
    command = shlex.split(said.split("`")[1])
    assert command[:5] == ["trail", "train", "collect", "--work", str(work)]
    again = train(*command[2:], *given)
    assert again.exit_code == 0, again.output
    assert f"{len(shards) - 1} of them there" in " ".join(again.stderr.split())
    assert "unfinished" not in train("artefact", "--work", work, "--out", "a", "--served-model", "s").stderr
    # One of several processes notes how it drew when its own part is done, though others go on.
    shards[0].unlink()
    assert f"{len(shards) - 1} of {len(shards)} shards" in train("fit", "--llm", llm, "--work", work).stderr


def test_a_folder_where_nothing_was_begun_is_told_so(tmp_path: Path) -> None:
    failed = train("fit", "--llm", tmp_path, "--work", tmp_path)
    assert failed.exit_code == 1
    assert failed.stderr == f"trail train: {tmp_path}: nothing was collected here (`trail train collect`)\n"
