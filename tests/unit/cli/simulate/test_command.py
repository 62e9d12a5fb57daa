"""The command as it is typed."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sidecar.cli.main import app

SMALL = ["simulate", "--slots", "4", "--step-ms", "20", "--duration-s", "10", "--seeds", "2", "--jobs", "1"]
KEYS = {
    "policy", "load", "seed", "mean_latency_s", "p50_latency_s", "p95_latency_s", "p99_latency_s", "mean_ttft_s",
    "p99_ttft_s", "preemptions", "recomputed_tokens", "max_wait_s",
}  # fmt: skip


def test_json_on_stdout_has_every_run_and_nothing_else() -> None:
    result = CliRunner().invoke(app, [*SMALL, "--policies", "fcfs,default,oracle", "--load", "0.7,1.1", "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert len(report["runs"]) == 12
    assert all(set(run) >= KEYS for run in report["runs"])
    assert report["baseline"] == "fcfs"


def test_without_json_there_is_a_table() -> None:
    result = CliRunner().invoke(app, [*SMALL, "--policies", "fcfs,trail:c=0.5", "--load", "1.1"])
    assert result.exit_code == 0, result.output
    assert "fcfs" in result.stdout
    assert "load 1 is" in result.stdout


def test_a_trace_is_served_as_recorded_where_no_load_is_given(tmp_path: Path) -> None:
    rows = "".join(f"{second / 2},20,10\n" for second in range(40))
    (tmp_path / "t.csv").write_text("arrival_s,prompt_tokens,output_tokens\n" + rows)
    result = CliRunner().invoke(
        app, ["simulate", "--trace", str(tmp_path / "t.csv"), "--policies", "fcfs", "--seeds", "1", "--json"]
    )
    (run,) = json.loads(result.stdout)["runs"]
    assert run["requests"] == 40
    assert run["makespan_s"] == pytest.approx(19.5 + 0.05, abs=0.01)


def test_measured_steps_are_fitted_and_the_fit_is_told(tmp_path: Path) -> None:
    rows = "".join(f"{batch},{0},{batch * 50},{0.01 + batch * 0.001}\n" for batch in range(1, 9))
    (tmp_path / "steps.csv").write_text("batch,prefill_tokens,kv_tokens,duration_s\n" + rows)
    typed = [
        "simulate",
        "--slots",
        "4",
        "--step-time",
        str(tmp_path / "steps.csv"),
        "--duration-s",
        "5",
        "--seeds",
        "1",
    ]
    result = CliRunner().invoke(app, [*typed, "--policies", "fcfs", "--load", "0.5", "--jobs", "1", "--json"])
    assert json.loads(result.stdout)["step_fit"]["r_squared"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (["--policies", "trail:c=2"], "c: 2.0 is not within 0 to 1"),
        (["--policies", "nobody"], "'nobody' is not one of"),
        (["--load", "0.5,-1"], "--load 0.5,-1: '-1'"),
        (["--slots", "0"], "--slots 0: must be 1 or more"),
        (["--slots", "4", "--token-budget", "2"], "--token-budget 2: less than --slots 4"),
        (["--slots", "4", "--kv-blocks", "3"], "--kv-blocks 3: less than --slots 4"),
        (["--kv-blocks", "90"], "--kv-blocks 90: the longest request"),
        (["--step-ms", "0"], "--step-ms 0"),
        (["--step-ms", "5", "--step-time", "x.json"], "give one of them"),
        (["--step-time", "no-such.json"], "no-such.json"),
        (["--seeds", "0"], "--seeds 0: must be 1 or more"),
        (["--every", "0"], "--every 0: must be 1 or more"),
        (["--duration-s", "0"], "--duration-s 0"),
        (["--predictions", "measured:nowhere"], "no confusion.json there"),
    ],
)
def test_bad_input_is_told_before_anything_runs(typed: list[str], says: str) -> None:
    result = CliRunner().invoke(app, ["simulate", *typed])
    assert result.exit_code == 2
    assert says in result.stderr
    assert not result.stdout


def test_a_request_that_no_block_holds_is_told_by_row(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,10,10\n1,5000,10\n")
    result = CliRunner().invoke(app, ["simulate", "--trace", str(tmp_path / "t.csv"), "--kv-blocks", "100"])
    assert result.exit_code == 2
    assert "row 2 has 5000 prompt_tokens" in result.stderr


def test_policies_can_be_listed() -> None:
    result = CliRunner().invoke(app, ["simulate", "--list-policies"])
    assert {line.partition(":")[0] for line in result.stdout.splitlines()} >= {"default", "oracle", "fcfs", "trail"}
