"""The whole way of `trail train`: a model folder and prompts become an artefact, which a running service takes up."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from predictor_service.artefact import load
from predictor_service.switching import rebinned
from tests.conftest import Valkey
from tests.integration.predictor_client import declaration, decode_rows, hidden, prompt_rows
from tests.integration.test_model_reload import deliver, predictor, stored_q, until_served
from tests.patience import PATIENCE_S
from tests.unit.training.tiny_llm import make_tiny_llm

pytest.importorskip("torch")
LAYERS, HIDDEN, CAP = 1, 32, 96


def train(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sidecar.cli.main", "train", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two artefacts that read the same layer, and the folder that both were made in."""
    home = tmp_path_factory.mktemp("training")
    llm = make_tiny_llm(home / "llm")
    prompts = home / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Count to {n}, then {n * 7}."}) + "\n" for n in range(60)))
    shared = ("--llm", llm, "--work", home / "work", "--bins", "8", "--layers", "1", "--no-search")
    made = train(
        "run", *shared, "--prompts-from", prompts, "--out", home / "first", "--served-model", "tiny",
        "--max-tokens", str(CAP), "--samples", "2", "--prompt", "counts", "--backend", "transformers",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    again = train("fit", *shared, "--seed", "1", "--epochs", "3")
    assert again.returncode == 0, again.stderr
    written = train(
        "artefact", "--work", home / "work", "--out", home / "second", "--served-model", "tiny", "--prompt", "counts"
    )
    assert written.returncode == 0, written.stderr
    return home


def test_the_artefact_says_how_it_was_made_and_how_good_it_is(trained: Path) -> None:
    manifest = json.loads((trained / "first" / "manifest.json").read_text())
    assert manifest["layers"] == [1]
    assert set(manifest["training"]["stages"]) == {"collect", "fit", "prompts"}
    assert manifest["training"]["stages"]["fit"]["command"].startswith("trail train ")
    assert 0 < manifest["metrics"]["mae_tokens"]["value"] < CAP
    assert load(trained / "first-trail-recipe").manifest.absorbing


def test_a_stage_that_was_not_run_is_named(trained: Path, tmp_path: Path) -> None:
    failed = train("artefact", "--work", tmp_path, "--out", tmp_path / "out", "--served-model", "tiny")
    assert failed.returncode == 1
    assert "trail train collect" in failed.stderr
    assert "Traceback" not in failed.stderr


async def test_what_was_trained_is_taken_up_by_a_running_service_and_rolled_back(
    trained: Path, valkey: Valkey, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (trained / "first").rename(models / "first")
    old = load(models / "first")
    # An artefact's name is in its manifest; the new one takes the old one's.
    manifest = json.loads((trained / "second" / "manifest.json").read_text()) | {"name": "first"}
    (trained / "second" / "manifest.json").write_text(json.dumps(manifest))
    row = hidden(1, seed=3, dim=HIDDEN)
    async with predictor(models, valkey) as connected:
        stream = connected.stream()
        await stream.open(declaration(1, max_tokens=CAP), dim=HIDDEN)
        await stream.step(prompts=prompt_rows([1], row))
        before = await stream.step(decodes=decode_rows([1], [2], row))
        q = stored_q(valkey, "r1")[None, :]
        kept = deliver(models, trained / "second", name="first")
        new = await until_served(connected, models / "first")
        after = await stream.step(decodes=decode_rows([1], [3], row))
        q = new.transition.advance(rebinned(q, old.bins, new.bins), np.array([1]))
        q = new.evidence.update(q, new.classifier(row, np.array([3])))
        assert after.mean[0] == pytest.approx(new.bins.mean(q, np.array([CAP - 3.0]))[0], rel=1e-3)
        (models / "first").rename(models / ".second")
        kept.rename(models / "first")
        await until_served(connected, models / "first")
        back = await stream.step(decodes=decode_rows([1], [4], row))
    assert not back.errors
    assert before.initial[0] == after.initial[0] == back.initial[0], "r1 is frozen"
    q = old.transition.advance(rebinned(q, new.bins, old.bins), np.array([1]))
    q = old.evidence.update(q, old.classifier(row, np.array([4])))
    assert back.mean[0] == pytest.approx(old.bins.mean(q, np.array([CAP - 4.0]))[0], rel=1e-3)
