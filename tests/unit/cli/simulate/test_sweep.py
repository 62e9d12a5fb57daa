"""Sweeps: paired, resumable, over processes."""

import json
from pathlib import Path

import numpy as np
import pytest

from engine_adapter.simulated.step_time import StepTime
from sidecar.cli.simulate import sweep
from sidecar.cli.simulate.capacity import measure_capacity
from sidecar.cli.simulate.cells import Cell, Experiment
from sidecar.cli.simulate.load_names import parse_load
from sidecar.cli.simulate.setup import EngineSetup
from sidecar.cli.simulate.summary import summarise
from sidecar.cli.simulate.sweep import run_sweep

SETUP = EngineSetup(StepTime(0.01), slots=4, kv_blocks=600)
EXPERIMENT = Experiment("poisson:alpaca", "lognormal:0.75", SETUP, 1.6, 20.0, 1, 1)
CELLS = [Cell(policy, load, seed) for policy in ("fcfs", "trail") for load in (0.5, 1.5) for seed in (0, 1)]


def test_a_constant_step_gives_the_capacity_that_arithmetic_gives() -> None:
    load = parse_load("poisson:alpaca")
    assert measure_capacity(SETUP, load) == pytest.approx(4 / (0.01 * load.mean_output_tokens), rel=0.01)


def test_a_sweep_over_processes_says_what_one_process_says() -> None:
    alone = run_sweep(EXPERIMENT, CELLS[:2], 1, None, lambda: None)
    assert run_sweep(EXPERIMENT, CELLS[:2], 2, None, lambda: None) == alone


def test_policies_of_a_seed_serve_the_same_requests() -> None:
    runs = run_sweep(EXPERIMENT, CELLS, 1, None, lambda: None)
    by_cell = {(run["policy"], run["load"], run["seed"]): run for run in runs}
    for load in (0.5, 1.5):
        assert by_cell["fcfs", load, 0]["output_tokens"] == by_cell["trail", load, 0]["output_tokens"]
        assert by_cell["fcfs", load, 0]["output_tokens"] != by_cell["fcfs", load, 1]["output_tokens"]


def test_a_stopped_sweep_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    real, calls = sweep.run_cell, list[Cell]()

    def counted(experiment: Experiment, cell: Cell) -> dict[str, object]:
        calls.append(cell)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(experiment, cell)

    monkeypatch.setattr(sweep, "run_cell", counted)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(EXPERIMENT, CELLS, 1, tmp_path, lambda: done.append(1))
    assert len(list(tmp_path.iterdir())) == len(done) == 3
    calls.clear()
    calls.extend(CELLS[:4])  # past the one that is stopped
    resumed = run_sweep(EXPERIMENT, CELLS, 1, tmp_path, lambda: None)
    assert calls[4:] == CELLS[3:]
    assert resumed == run_sweep(EXPERIMENT, CELLS, 1, None, lambda: None)


def test_a_file_cut_short_is_run_again(tmp_path: Path) -> None:
    first = run_sweep(EXPERIMENT, CELLS[:1], 1, tmp_path, lambda: None)
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text()[:40])
    assert run_sweep(EXPERIMENT, CELLS[:1], 1, tmp_path, lambda: None) == first
    assert json.loads(path.read_text()) == first[0]


def test_gains_are_paired_by_seed_and_intervals_shrink_to_nothing_without_spread() -> None:
    figures = dict.fromkeys(
        ("mean_latency_s", "p50_latency_s", "p95_latency_s", "p99_latency_s", "mean_ttft_s", "p99_ttft_s",
         "mean_tpot_s", "mean_slowdown", "max_wait_s", "preemptions", "recomputed_tokens", "mean_kv_blocks"), 1.0,
    )  # fmt: skip
    runs = [figures | {"policy": "fcfs", "load": 1.0, "seed": seed, "mean_latency_s": 4.0 + seed} for seed in range(3)]
    runs += [
        figures | {"policy": "trail", "load": 1.0, "seed": seed, "mean_latency_s": 2.0 + seed / 2} for seed in range(3)
    ]
    fcfs, trail = summarise(runs, "fcfs")
    gain = trail["gains"]["mean_latency_s"]
    assert (gain["ratio"], gain["low"], gain["high"]) == pytest.approx((2.0, 2.0, 2.0))
    assert fcfs["mean_latency_s"] == 5.0
    assert fcfs["ci95"]["mean_latency_s"] == pytest.approx(4.303 / np.sqrt(3), abs=1e-3)
