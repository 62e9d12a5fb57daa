"""The demo's arithmetic and its prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sidecar.cli.demo.arms import ARMS
from sidecar.cli.demo.load import Sample
from sidecar.cli.demo.prompts import load
from sidecar.cli.demo.report import Run, build, write


def run(latency_s: float, used: int = 0, ages: tuple[int, ...] = ()) -> Run:
    samples = [Sample(latency_s * (i + 1), latency_s / 10, 5, (1,)) for i in range(4)]
    agent = {
        "rows_shipped": 7, "predictions_used": used, "plans_applied": 3, "refined_predictions_used": used - 1,
        "predictions_used_past_first_token": used, "absolute_error_tokens_sum": 30.0, "finished_predictions": 10,
    }  # fmt: skip
    return Run(samples, 2, agent if used else {}, list(ages))


def report() -> dict[str, object]:
    about = {"requests": 4, "repeats": 3, "engine": {"name": "vllm", "version": "0"}, "model": "m"}
    runs = {arm.name: [run(1.0), run(9.0), run(2.0)] for arm in ARMS}
    runs["trail"] = [run(0.5, 10, (0, 4)), run(0.7, 10, (0, 2, 1)), run(0.6, 20)]
    return build(runs, about)


def test_each_figure_is_the_median_of_the_repeats() -> None:
    policies = report()["policies"]
    assert isinstance(policies, dict)
    assert policies["stock"]["mean_latency_s"] == pytest.approx(5.0)
    assert policies["stock"]["mean_ttft_s"] == pytest.approx(0.2)
    assert policies["stock"]["preemptions"] == 2
    assert [each["mean_latency_s"] for each in policies["stock"]["repeats"]] == pytest.approx([2.5, 22.5, 5.0])


def test_counts_are_summed_and_shares_are_of_the_sums() -> None:
    found = report()
    assert found["embeddings_shipped"] == 21
    assert found["predictions_used"] == 40
    assert found["refined_share"] == pytest.approx(37 / 40)
    assert found["prediction_age_steps_p50"] == 1
    policies = found["policies"]
    assert isinstance(policies, dict)
    assert policies["trail"]["prediction_error_tokens"] == pytest.approx(3.0)


def test_the_report_and_its_plot_are_written(tmp_path: Path) -> None:
    runs = {arm.name: [run(1.0)] for arm in ARMS}
    about = {"requests": 4, "repeats": 1, "engine": {"name": "vllm", "version": "0"}, "model": "m"}
    write(build({**runs, "trail": [run(1.0, 5, (1,))]}, about), runs, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["requests"] == 4
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_our_own_prompts_suffice_where_there_are_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prompts = load(None, 64)
    assert len(set(prompts.texts)) == 64
    assert "our own" in prompts.source


@pytest.mark.parametrize(
    ("content", "says"),
    [("{}", "expected a JSON list"), ('[{"input": "x"}]', "'instruction'"), ('[{"instruction": "x"}]', "1 prompts")],
)
def test_a_wrong_prompt_file_is_refused_with_the_reason(tmp_path: Path, content: str, says: str) -> None:
    file = tmp_path / "prompts.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=says):
        load(file, 64)
