"""`trail evaluate` and its parts: a real LLM (a tiny one), a real predictor service, a real Valkey."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from predictor_service.artefact import load
from predictor_service.evaluation.answers import Source, ask, compute
from predictor_service.evaluation.command import EvaluateError, Options, run
from predictor_service.evaluation.recorded import Recorded
from predictor_service.evaluation.replay import replay, unrefined
from predictor_service.evaluation.service import Address, running_predictor
from predictor_service.evaluation.stream import ReplayError
from predictor_service.prompt import Prompt
from predictor_service.training.generation import Sampling
from tests import artefacts
from tests.patience import PATIENCE_S
from tests.unit.training.tiny_llm import make_tiny_llm

HIDDEN = 32
CAP = 40
FIGURES = {"mae_tokens", "median_ae_tokens", "kendall_tau", "coverage_80", "ece", "ece_of_steps"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artefact, another one in place of the paper's recipe, an LLM and prompts."""
    folder = tmp_path_factory.mktemp("evaluate")
    artefacts.make(folder / "tiny", layers=(1,), hidden_size=HIDDEN)
    artefacts.make(folder / "tiny-trail-recipe", layers=(2, 0), hidden_size=HIDDEN, seed=1)
    make_tiny_llm(folder / "llm")
    prompts = [f"Write {number} words" for number in range(24)]
    (folder / "unseen.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in prompts))
    return folder


@pytest.fixture(scope="module")
def predictor(folder: Path) -> Iterator[Address]:
    with running_predictor(folder / "tiny", folder / "services.log") as address:
        yield address


def recorded(lengths: tuple[int, ...] = (3, 40, 1, 17, 25), dim: int = HIDDEN) -> Recorded:
    rng = np.random.default_rng(0)
    age = np.concatenate([np.arange(length) for length in lengths])
    hidden = rng.standard_normal((len(age), dim)).astype(np.float16)
    return Recorded(hidden, age, [rng.integers(0, 99, 5).astype(np.int32) for _ in lengths], CAP)


def test_a_replay_gives_what_the_equations_say_at_every_age(folder: Path, predictor: Address) -> None:
    model, shipped = load(folder / "tiny"), recorded()
    found = replay(predictor, "tiny", shipped, slots=3)
    one = np.ones(1, dtype=np.int64)
    for request, (start, length) in enumerate(zip(shipped.start, shipped.lengths, strict=True)):
        p = model.classifier(shipped.hidden[start : start + length], np.arange(length))
        q = model.evidence.start(p[:1])
        for age in range(length):
            if age:
                q = model.evidence.update(model.transition.advance(q, one), p[age : age + 1])
            at, left = start + age, np.array([CAP - age], dtype=np.float64)
            assert found.predicted.truth[at] == length - age
            assert found.predicted.mean[at] == pytest.approx(model.bins.mean(q, left)[0], rel=1e-4)
            p10, median, p90 = (min(one[0], left[0]) for one in model.bins.quantiles(q, (0.1, 0.5, 0.9)))
            served = [getattr(found.predicted, name)[at] for name in ("p10", "median", "p90")]
            assert served == pytest.approx([p10, median, p90], rel=1e-3)
            assert found.predicted.q is not None
            np.testing.assert_allclose(found.predicted.q[at], q[0], rtol=1e-4)
        total = model.evidence.start(model.prompt([Prompt(shipped.prompts[request].astype(np.uint32), 5)]))
        assert found.r0_mean[request] == pytest.approx(model.bins.mean(total, np.array([float(CAP)]))[0], rel=1e-4)
        assert found.r0_median[request] == pytest.approx(min(model.bins.quantile(total, 0.5)[0], CAP), rel=1e-3)


def test_how_many_run_at_once_changes_nothing(predictor: Address) -> None:
    shipped = recorded()
    one_by_one, together = (replay(predictor, "tiny", shipped, slots=slots).predicted for slots in (1, 5))
    assert one_by_one.q is not None
    assert together.q is not None
    np.testing.assert_allclose(one_by_one.q, together.q, atol=1e-6)


def test_unrefined_is_the_classifier_alone_at_any_age(folder: Path, predictor: Address) -> None:
    model, shipped = load(folder / "tiny"), recorded()
    rows = np.array([0, 5, 30, 42, 43, 60])
    found = unrefined(predictor, "tiny", shipped, rows)
    p = model.classifier(shipped.hidden[rows], shipped.age[rows])
    left = (CAP - shipped.age[rows]).astype(np.float64)
    assert found.mean == pytest.approx(model.bins.mean(p, left), rel=1e-4)
    assert found.median == pytest.approx(np.minimum(model.bins.quantile(p, 0.5), left), rel=1e-3)


def test_answers_computed_from_classifier_outputs_are_those_of_the_service(folder: Path, tmp_path: Path) -> None:
    artefacts.make(tmp_path / "narrow", name="narrow", layers=(1,), hidden_size=HIDDEN)
    artefacts.edit(tmp_path / "narrow", interval_levels=[0.2, 0.7], forgetting=0.8)
    model, shipped, rows = load(tmp_path / "narrow"), recorded(), np.array([1, 2, 30, 42, 43, 60])
    served = ask(Source(tmp_path / "narrow"), model, shipped, rows, tmp_path / "log", lambda *_: None)
    p = model.classifier(shipped.hidden, shipped.age).astype(np.float32)
    computed = compute(model, p, shipped.age, shipped.prompts, rows, CAP)
    np.testing.assert_allclose(computed.r0, served.r0, rtol=1e-3)
    np.testing.assert_allclose(computed.r1, served.r1, rtol=1e-3)
    for name in ("request", "age", "truth", "mean", "median", "p10", "p90"):
        for one, other in ((computed.served, served.served), (computed.unrefined, served.unrefined)):
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-3, err_msg=name)
    assert computed.served.q is not None
    assert served.served.q is not None
    np.testing.assert_allclose(computed.served.q, served.served.q, atol=1e-5)


def test_without_the_stores_address_there_are_predictions_but_no_posteriors(predictor: Address) -> None:
    found = replay(replace(predictor, redis_url=None), "tiny", recorded()).predicted
    assert found.q is None
    assert np.isfinite(found.median).all()


def test_what_the_service_refuses_ends_the_replay_with_its_words(predictor: Address) -> None:
    with pytest.raises(ReplayError, match=r"open\.dim: 8"):
        replay(predictor, "tiny", recorded(dim=8))
    with pytest.raises(ReplayError, match="'other' is not loaded"):
        replay(predictor, "other", recorded())
    broken = recorded()
    broken.hidden[7] = np.nan
    with pytest.raises(ReplayError, match="NaN"):
        replay(predictor, "tiny", broken)
    with pytest.raises(ReplayError, match="NaN"):
        unrefined(predictor, "tiny", broken, np.array([6, 7]))
    with pytest.raises(ReplayError, match=r"127\.0\.0\.1:1"):
        replay(Address("127.0.0.1:1"), "tiny", recorded())


def test_the_command_prints_one_json_object_and_writes_a_report(folder: Path, tmp_path: Path) -> None:
    flags = {
        "artefact": folder / "tiny", "model": folder / "llm", "prompts": folder / "unseen.jsonl", "max-prompts": 16,
        "seed": 3, "max-tokens": CAP, "out": tmp_path / "out", "backend": "transformers",
    }  # fmt: skip
    command = [sys.executable, "-m", "sidecar.cli.main", "evaluate", "--json"]
    command += [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    first, second = (subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S) for _ in range(2))
    assert first.returncode == 0, first.stderr
    found = json.loads(first.stdout)
    assert set(found) == {"n_requests", "n_positions", "prompt", "baselines"} | FIGURES
    assert (found["n_requests"], set(found["prompt"])) == (16, {"mae_tokens", "kendall_tau"})
    assert 16 * 2 <= found["n_positions"] <= 16 * 16
    assert set(found["baselines"]["constant"]) == {"mae_tokens", "median_ae_tokens", "kendall_tau"}
    assert set(found["baselines"]["trail_recipe"]) == FIGURES | {"prompt"}
    assert found["baselines"]["trail_recipe"]["mae_tokens"] != found["mae_tokens"]
    assert json.loads(second.stdout) == found
    assert "16 responses in 1 shards, 1 of them there" in second.stderr
    html = (tmp_path / "out" / "report.html").read_text()
    assert html.count("data:image/png;base64,") == len(list((tmp_path / "out" / "figures").iterdir()))
    assert "figures/" not in html
    kept = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert kept["methods"]["refined, as served"]["mae_tokens"]["value"] == found["mae_tokens"]


def options(folder: Path, out: Path) -> Options:
    sampling = Sampling(max_tokens=CAP)
    return Options(
        folder / "tiny", folder / "llm", folder / "unseen.jsonl", 8, sampling, out, backend="transformers"
    )  # fmt: skip


def refusal(asked: Options) -> str:
    with pytest.raises(EvaluateError) as refused:
        run(asked, Console(file=StringIO()))
    return str(refused.value)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"prompt": "a"', "line 2: not JSON"),
        ('{"prompt": " "}', "line 2, field prompt: empty"),
        ('{"prompt": "' + "a" * 3000 + '"}', "line 2, field prompt: 3002 tokens"),
    ],
)
def test_a_bad_prompt_is_named_by_file_line_and_field(folder: Path, tmp_path: Path, line: str, named: str) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "good"}\n' + line + "\n")
    text = refusal(replace(options(folder, tmp_path), prompts=bad))
    assert "bad.jsonl" in text
    assert named in text


def test_what_does_not_fit_together_is_refused_before_anything_is_drawn(folder: Path, tmp_path: Path) -> None:
    asked = options(folder, tmp_path / "out")
    narrow = artefacts.make(tmp_path / "narrow", hidden_size=16)
    assert "hidden size 16" in refusal(replace(asked, artefact=narrow))
    deep = artefacts.make(tmp_path / "deep", layers=(1, 3), hidden_size=HIDDEN)
    assert "reads layers [3]" in refusal(replace(asked, artefact=deep))
    assert "has hidden states 0 to 2" in refusal(replace(asked, baseline=deep))
    assert "max_tokens: 2048" in refusal(replace(asked, sampling=Sampling(max_tokens=2048)))
    assert "config.json" in refusal(replace(asked, model=tmp_path))
    assert "manifest.json" in refusal(replace(asked, artefact=tmp_path))
    assert "none.jsonl" in refusal(replace(asked, prompts=tmp_path / "none.jsonl"))
    assert not (tmp_path / "out" / "responses").exists()
