"""The sweep around the default, with made-up figures in place of runs."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from engine_adapter.simulated.step_time import StepTime
from scheduler_service.aging import MEAN_SERVICES
from scheduler_service.choice import PolicyChoice
from sidecar.cli.simulate.arms import parse_arm
from sidecar.cli.simulate.cells import Cell, Experiment
from sidecar.cli.simulate.load_names import parse_load
from sidecar.cli.simulate.setup import EngineSetup
from sidecar.cli.tune import study
from sidecar.cli.tune.knobs import AGING_FACTORS, Variant, every_knob, policy_knobs
from sidecar.cli.tune.report import rows_of
from sidecar.cli.tune.service_time import mean_service_s
from sidecar.cli.tune.study import Study, Sweep, run_study

SETUP = EngineSetup(StepTime(0.01), slots=4, kv_blocks=600)
EXPERIMENT = Experiment("poisson:alpaca", "lognormal:0.75", SETUP, 1.6, 20.0, 1, 1)


def studied(monkeypatch: pytest.MonkeyPatch, mean_of: Callable[[str, int], float]) -> tuple[Study, list[str]]:
    """A study in which ``mean_of`` says the mean latency of an arm in every K-th step, over that of FCFS."""
    ran: list[str] = []

    def fake(
        experiment: Experiment, cells: Sequence[Cell], jobs: int, out: Path | None, done: Callable[[], None]
    ) -> Any:
        ran.extend(cell.policy for cell in cells)
        figures = dict.fromkeys(("p99_latency_s", "mean_ttft_s"), 1.0) | {"preemptions": 3, "recomputed_tokens": 9}
        return [
            cell.key | figures | {"mean_latency_s": mean_of(cell.policy, experiment.every) * (cell.load + cell.seed)}
            for cell in cells
        ]

    monkeypatch.setattr(study, "run_sweep", fake)
    return run_study(Sweep(EXPERIMENT, [0.8, 1.1], 3, 1, Path()), policy_knobs(2.0), 0.02), ran


def by_knobs(together: float) -> Callable[[str, int], float]:
    """c = 0.5 and margin = 2 are each better than the default."""
    means = {
        "default:preemption_limit=0.5": 0.8,
        "default:preemption_margin=2": 0.85,
        "default:preemption_limit=0.5:preemption_margin=2": together,
    }
    return lambda arm, every: means.get(arm, 0.9 * (1.02 if every > 4 else 1.0))


def test_what_is_better_of_each_knob_is_run_together_and_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = studied(monkeypatch, by_knobs(0.75))
    assert found.chosen.settings == (("preemption_limit", 0.5), ("preemption_margin", 2.0))
    assert found.every == 4
    assert "together are better" in found.verdict
    chosen = [(row.knob, row.value) for row in rows_of(found) if row.chosen]
    assert chosen[:4] == [("c", "0.5"), ("margin", "2"), ("aging", "unset"), ("K", "4")]
    assert chosen[4][0] == "together"


def test_the_best_alone_is_kept_where_together_is_no_better(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = studied(monkeypatch, by_knobs(0.82))
    assert found.chosen.settings == (("preemption_limit", 0.5),)
    assert found.verdict.startswith("preemption_limit = 0.5 alone is better")
    chosen = [(row.knob, row.value) for row in rows_of(found) if row.chosen]
    assert chosen == [("c", "0.5"), ("margin", "1"), ("aging", "unset"), ("K", "4")]


def test_where_all_is_alike_the_default_stays_and_nothing_more_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    found, ran = studied(monkeypatch, lambda arm, every: 0.9)
    assert found.chosen == Variant()
    assert found.together is None
    assert found.every == 16
    assert "the default stays" in found.verdict
    # FCFS, the default, four values each of c and the margin, five of aging, and four of K.
    assert len(ran) == 6 * (1 + 1 + 4 + 4 + 5 + 4)


def test_every_knob_has_the_default_among_its_values_and_the_simulator_knows_them_all() -> None:
    for knob in (*policy_knobs(2.0), every_knob()):
        assert [point.variant for point in knob.points].count(Variant()) == 1
        for point in knob.points:
            parse_arm(point.variant.arm)


def test_aging_is_tried_around_the_default_s_own() -> None:
    (knob,) = (knob for knob in policy_knobs(2.0) if knob.name == "aging")
    assert PolicyChoice().aging_s is None
    assert [dict(point.variant.settings).get("aging_s") for point in knob.points] == [
        None if factor == 1 else pytest.approx(2.0 * factor * MEAN_SERVICES) for factor in AGING_FACTORS
    ]


def test_a_service_is_as_many_steps_as_output_tokens_and_the_prompt_for_every_slot() -> None:
    load = parse_load("poisson:alpaca")
    prompt_s = load.typical(2000).prompt_tokens.mean() * 0.01 / SETUP.token_budget
    assert mean_service_s(SETUP, load) == pytest.approx(load.mean_output_tokens * 0.01 + SETUP.slots * prompt_s)
    slow = dataclasses.replace(SETUP, step_time=StepTime(0.01, c_s=1e-3))
    grown_s = mean_service_s(slow, load) - mean_service_s(SETUP, load)
    assert grown_s == pytest.approx(SETUP.slots * (load.typical(2000).prompt_tokens.mean() * 1e-3 - prompt_s))


def test_steps_of_a_full_batch_count_as_long_as_memory_lets_it_fill() -> None:
    load = parse_load("poisson:alpaca")
    time = StepTime(0.01, b_s=0.001)
    roomy, tight = (mean_service_s(EngineSetup(time, 16, blocks), load) for blocks in (10_000, 100))
    assert roomy == pytest.approx(load.mean_output_tokens * 0.026, rel=0.002)
    assert load.mean_output_tokens * 0.011 < tight < roomy
