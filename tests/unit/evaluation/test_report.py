import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from predictor_service.artefact import load
from predictor_service.evaluation import report
from predictor_service.evaluation.answers import Answers
from predictor_service.evaluation.evaluation import (
    CONSTANT,
    PREFILL,
    PROMPT,
    RECIPE,
    SERVED,
    Evaluation,
    assess,
    constant_tokens,
)
from predictor_service.evaluation.predicted import Predicted, Requests
from tests import artefacts

COUNT, CAP = 40, 64
JUDGED = {"mae_median": 90.0, "mae_median_se": 4.0, "kendall_tau": 0.6}


def evaluation(folder: Path, with_recipe: bool = True) -> Evaluation:
    """Forty requests of 20 or 64 tokens, each seen at ages 0 and 10; the recipe says 9 tokens too many."""
    artefacts.make(folder)
    artefacts.edit(folder, training={"constant_tokens": 30.0})
    artefact = load(folder)
    length = np.tile([20, 64], COUNT // 2)
    request, age = np.repeat(np.arange(COUNT), 2), np.tile([0, 10], COUNT)
    truth = (length[request] - age).astype(float)
    uniform = np.full((len(age), len(artefact.bins)), 0.1, dtype=np.float32)
    served = Predicted(request, age, truth, truth, truth, truth - 1, truth + 1, uniform)
    off = Predicted(request, age, truth, truth + 9, truth + 9, truth + 8, truth + 9, uniform)
    requests = Requests(
        np.arange(COUNT), np.full(COUNT, "here"), np.full(COUNT, "write"), length, length < CAP
    )  # fmt: skip
    ours = Answers(artefact, served, off, r0=length + 5.0, r1=length - 2.0)
    theirs = Answers(artefact, off, off, r0=length + 7.0, r1=length + 0.0)
    arguments: dict[str, Any] = {"seed": 0, "about": {"artefact": "tiny"}, "progress": lambda *_: None}
    return assess(requests, ours, theirs if with_recipe else None, CAP, **arguments)


def test_every_baseline_is_measured_at_the_same_positions(tmp_path: Path) -> None:
    found = evaluation(tmp_path / "tiny")
    mae = {name: method.figures["mae_tokens"]["value"] for name, method in found.methods.items()}
    assert mae[SERVED] == 0
    assert mae[RECIPE] == 9
    assert (mae[PREFILL], mae[PROMPT]) == (2, 5)
    # |30 - 20|, |30 - 10|, |30 - 64| and |30 - 54|: the cap leaves 64 and 54.
    assert mae[CONSTANT] == pytest.approx((10 + 20 + 34 + 24) / 4)
    assert "coverage_80" not in found.methods[CONSTANT].figures


def test_the_summary_has_what_the_command_promises(tmp_path: Path) -> None:
    found = evaluation(tmp_path / "tiny").summary()
    assert (found["n_requests"], found["n_positions"], found["mae_tokens"], found["coverage_80"]) == (40, 80, 0, 1)
    assert found["prompt"] == {"mae_tokens": 5, "kendall_tau": 1}
    assert set(found["baselines"]["constant"]) == {"mae_tokens", "median_ae_tokens", "kendall_tau"}
    assert found["baselines"]["trail_recipe"]["mae_tokens"] == 9
    assert found["baselines"]["trail_recipe"]["prompt"]["mae_tokens"] == 7
    assert evaluation(tmp_path / "tiny", with_recipe=False).summary()["baselines"]["trail_recipe"] is None


def test_without_a_constant_in_the_manifest_the_bins_tell_it(tmp_path: Path) -> None:
    artefacts.make(tmp_path / "tiny")
    artefact = load(tmp_path / "tiny")
    # Ten bins of a tenth each: half of the mass lies below the sixth, which begins at 16.
    assert constant_tokens(artefact) == pytest.approx(16)


def test_the_report_shows_every_figure_in_one_file(tmp_path: Path) -> None:
    study = {
        "profile": [{"study": "profile", "name": str(layer), **JUDGED} for layer in range(3)],
        "profile_paper": [{"study": "profile, paper", "name": str(layer), **JUDGED} for layer in range(3)],
        "learning_curve": [{"responses": count, **JUDGED} for count in (500, 1000, 2000)],
        "noise_floor": {"mae_tokens": 60.0, "kendall_tau": 0.7},
    }
    html = report.write(evaluation(tmp_path / "tiny"), tmp_path / "out", study)
    pictures = {path.stem for path in (tmp_path / "out" / "figures").iterdir()}
    assert {"predicted-versus-true", "reliability", "layer-profile", "learning-curve"} <= pictures
    assert all(path.read_bytes()[1:4] == b"PNG" for path in (tmp_path / "out" / "figures").iterdir())
    text = html.read_text()
    assert text.count('src="data:image/png;base64,') == len(pictures)
    assert "figures/" not in text
    assert "<td>the paper's recipe</td>\n<td>9.0 [9.0, 9.0]</td>" in text.replace("&#39;", "'")
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["groups"]["source"][0]["requests"] == COUNT


def test_without_a_study_nothing_of_it_is_drawn(tmp_path: Path) -> None:
    report.write(evaluation(tmp_path / "tiny"), tmp_path / "out")
    pictures = {path.stem for path in (tmp_path / "out" / "figures").iterdir()}
    assert not pictures & {"layer-profile", "learning-curve"}
