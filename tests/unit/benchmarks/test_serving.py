"""What the serving benchmark computes without an engine: cells, requests, figures."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.serving import agent_changes
from benchmarks.serving_cells import (
    Cell,
    Setting,
    arrivals_s,
    cells,
    choice_of,
    lengths_of,
    prompts_of,
    read_lengths,
    sampling_seeds,
)
from benchmarks.serving_summary import by_bucket, figures, median_of, summarise, table, together
from scheduler_service.settings import SchedulerSettings

SETTING = Setting("llm", "0.26.0", "slots", 64, None, "poisson", 10.0, None, 1024, 0.7, 0.95, "GPU")


def cell(arm: str, seed: int, factor: float = 1.0) -> dict[str, Any]:
    return {
        "setting": asdict(SETTING),
        "load": 0.9,
        "seed": seed,
        "arm": arm,
        "measured": {"alone_ttft_s": 0.1, "alone_tpot_s": 0.01, "capacity_rps": 50.0},
        "wall_s": 12.0,
        "median_step_ms": 3.0,
        "window_tokens": 500,
        "preemptions": 2,
        "recomputed_tokens": 7,
        "declared_as_they_came": None,
        "agent": {},
        "requests": {
            "arrival_s": [0.0, 1.0],
            "output_tokens": [1, 101],
            "first_token_s": [0.2 * factor, 1.0 + 0.4 * factor],
            "end_s": [0.2 * factor, 1.0 + 2.4 * factor],
            "cut": [0, 1],
        },
        "machine": {}, "versions": {}, "command": "python",
    }  # fmt: skip


def test_arrivals_are_the_seeds_own_and_come_at_the_rate() -> None:
    times = arrivals_s("poisson", 50, 200, seed=3)
    assert np.array_equal(times, arrivals_s("poisson", 50, 200, seed=3))
    assert not np.array_equal(times[:10], arrivals_s("poisson", 50, 200, seed=4)[:10])
    assert len(times) == pytest.approx(10_000, rel=0.05)
    assert (np.diff(times) >= 0).all()
    assert times[-1] < 200


def test_lengths_are_a_records_and_what_is_said_of_them_errs_as_told(tmp_path: Path) -> None:
    record = tmp_path / "lengths.csv"
    record.write_text("id,output_token_length\n0,40\n1,0\n2,5000\n")
    lengths = read_lengths(record, most=1024)
    assert lengths.tolist() == [40, 1024]
    true, said = lengths_of(lengths, 20_000, seed=3, sigma=0.5)
    assert set(true) == {40, 1024}
    assert lengths_of(lengths, 20_000, seed=3, sigma=0.0) == (true, true)
    assert np.log(np.array(said) / np.array(true)).std() == pytest.approx(0.5, rel=0.02)
    record.write_text("output_token_length\n0\n")
    with pytest.raises(ValueError, match="no output_token_length above 0"):
        read_lengths(record, most=1024)


def test_gamma_gaps_vary_as_told_and_a_burst_comes_at_once() -> None:
    gaps = np.diff(arrivals_s("gamma:3", 100, 500, seed=0))
    assert gaps.std() / gaps.mean() == pytest.approx(3, rel=0.15)
    assert arrivals_s("burst", 5, 10, seed=0).tolist() == [0.0] * 50
    assert len(arrivals_s("poisson", 50, 10, seed=0, most=7)) == 7
    with pytest.raises(ValueError, match="one of poisson"):
        arrivals_s("uniform", 1, 1, seed=0)


def test_every_prompt_is_asked_before_one_is_asked_again() -> None:
    chosen = prompts_of(5, 12, seed=1)
    assert sorted(chosen[:5]) == sorted(chosen[5:10]) == list(range(5))
    assert len(set(sampling_seeds(1000, 1))) == 1000


def test_stock_comes_first_at_each_load_and_the_others_take_turns() -> None:
    asked = cells(SETTING, [0.8, 1.1], [0], ["paper", "stock", "default"])
    found = [(each.seed, each.load, each.arm) for each in asked]
    assert found == [
        (0, 0.8, "stock"), (0, 0.8, "paper"), (0, 0.8, "default"),
        (0, 1.1, "stock"), (0, 1.1, "default"), (0, 1.1, "paper"),
    ]  # fmt: skip
    assert [each.arm for each in cells(SETTING, [1], [0], ["oracle"])] == ["stock", "oracle"]
    assert [each.arm for each in cells(SETTING, [1], [0], ["default"])] == ["default"]


def test_a_cell_that_is_there_is_read_and_one_of_other_settings_is_refused(tmp_path: Path) -> None:
    one = Cell(SETTING, 0.9, 0, "c0.2")
    assert one.read(tmp_path) is None
    one.path(tmp_path).write_text(json.dumps({"setting": asdict(SETTING), "arm": "c0.2"}))
    assert one.read(tmp_path) == {"setting": asdict(SETTING), "arm": "c0.2"}
    with pytest.raises(ValueError, match="other settings"):
        replace(one, setting=replace(SETTING, max_tokens=64)).read(tmp_path)
    paths = {Cell(SETTING, load, 0, arm).path(tmp_path) for load in (0.8, 0.95) for arm in ("c0.2", "c0.5", "stock")}
    assert len(paths) == 6


def test_arms_are_the_policies_that_they_are_named_for() -> None:
    assert choice_of("default") == SchedulerSettings().choice
    assert choice_of("c0.2") == replace(choice_of("default"), preemption_limit=0.2)
    paper = choice_of("paper")
    assert (paper.policy, paper.aging, paper.preemption_margin, paper.overtaking_s) == ("trail", "none", 0.0, 0.0)
    assert choice_of("sjf-bert") == replace(paper, policy="sjf", predictor="prompt_only")
    assert choice_of("oracle").predictor == "oracle"
    assert choice_of("trail:c=0.5").preemption_limit == 0.5


def test_times_count_from_when_a_request_was_due() -> None:
    found = figures(cell("stock", 0))
    assert found["mean_latency_s"] == pytest.approx((0.2 + 2.4) / 2)
    assert found["mean_ttft_s"] == pytest.approx(0.3)
    assert found["mean_tpot_s"] == pytest.approx(2.0 / 100)  # a request of one token has none
    assert found["mean_slowdown"] == pytest.approx((0.2 / 0.1 + 2.4 / 1.1) / 2)
    assert found["window_tokens_per_s"] == 50
    assert found["cut_share"] == 0.5


def test_each_bucket_has_its_own_mean() -> None:
    found = by_bucket(np.array([1, 32, 33, 600]), np.array([1.0, 3.0, 5.0, 7.0]))
    assert found == {"to 32": 2.0, "to 128": 5.0, "to 512": None, "over 512": 7.0}


def test_arms_are_compared_with_stock_of_the_same_seed(tmp_path: Path) -> None:
    for arm, seed, factor in (("stock", 0, 1.0), ("stock", 1, 2.0), ("default", 0, 0.5), ("default", 1, 1.5)):
        path = Cell(SETTING, 0.9, seed, arm).path(tmp_path)
        path.write_text(json.dumps(cell(arm, seed, factor)))
    (tmp_path / "capacity-slots64.json").write_text("{}")
    summary = summarise(tmp_path)
    (group,) = summary["groups"]
    to_stock = group["loads"]["0.9"]["default"]["to_stock"]["mean_latency_s"]
    assert to_stock["by_seed"] == pytest.approx([0.5, 0.75])
    assert (to_stock["least"], to_stock["mean"], to_stock["most"]) == pytest.approx((0.5, 0.625, 0.75))
    assert "| 0.9 | default |" in table(summary)
    with pytest.raises(ValueError, match="no cells"):
        summarise(tmp_path / "nothing")


def test_of_the_agents_numbers_only_what_came_in_between_counts() -> None:
    before = {
        "counters": {"finished_predictions": 2, "absolute_error_tokens_sum": 10.0},
        "prediction_age_tokens_histogram": [4, 1],
    }
    after = {
        "counters": {"finished_predictions": 6, "absolute_error_tokens_sum": 30.0},
        "prediction_age_tokens_histogram": [5, 1, 2],
    }
    found = agent_changes(before, after)
    assert found["prediction_error_tokens"] == 5.0
    assert found["prediction_age_tokens_histogram"] == [1, 0, 2]
    assert median_of(found["prediction_age_tokens_histogram"]) == 2
    assert median_of([]) is None


def test_first_tokens_that_came_in_one_step_are_told_from_those_of_the_next() -> None:
    assert together(np.array([0.5, 0.1002, 0.1, 0.1009, 0.105])) == pytest.approx(5 / 3)
    assert together(np.array([1.0])) == 1.0
