"""The command as it is typed, on a load so small that it takes a second."""

import json
import os
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from scheduler_service.settings import SchedulerSettings
from sidecar.cli.main import app
from sidecar.cli.simulate import sweep
from sidecar.cli.tune.settings_file import write_settings
from sidecar.settings import load


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Sixteen requests for an engine of two slots that can serve as many as come, or somewhat fewer."""
    rng = np.random.default_rng(0)
    arrivals_s = np.cumsum(rng.exponential(0.05, 16))
    output = np.clip(rng.lognormal(2, 1, 16), 1, 30).astype(int)
    rows = "".join(f"{at:.3f},10,{tokens}\n" for at, tokens in zip(arrivals_s, output, strict=True))
    path = tmp_path / "t.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n" + rows)
    return path


def typed(trace: Path, out: Path) -> list[str]:
    return ["tune", "--trace", str(trace), "--load", "1.1", "--slots", "2", "--step-ms", "10", "--seeds", "2",
            "--jobs", "1", "--out", str(out)]  # fmt: skip


def test_all_files_are_written_and_a_second_time_nothing_is_run_again(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(app, typed(trace, out))
    assert result.exit_code == 0, result.output
    for name in ("tune.json", "sensitivity.svg", "scheduler.env", "scheduler.toml"):
        assert (out / name).stat().st_size
        assert f"written: {out / name}" in result.stdout
    assert (out / "sensitivity.svg").read_text().rstrip().endswith("</svg>")
    first = json.loads((out / "tune.json").read_text())
    assert [row["knob"] for row in first["rows"] if row["is_default"]] == ["c", "margin", "aging", "K"]
    assert len([row for row in first["rows"] if row["chosen"]]) >= 4

    def never(*_: object) -> dict[str, object]:
        raise AssertionError("run again")

    monkeypatch.setattr(sweep, "run_cell", never)
    again = CliRunner().invoke(app, [*typed(trace, out), "--json"])
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout) == first


def test_a_trace_is_tuned_for_as_recorded_where_no_load_is_given(trace: Path, tmp_path: Path) -> None:
    arguments = [each for each in typed(trace, tmp_path / "out") if each not in ("--load", "1.1")]
    arguments[arguments.index("--seeds") + 1] = "1"
    result = CliRunner().invoke(app, [*arguments, "--json"])
    (share,) = json.loads(result.stdout)["loads"]
    assert 0.3 < share < 3  # of the capacity


CHOSEN = {"preemption_limit": 0.5, "aging_s": 3.25}
ABOUT = ["a trace\nTRAIL_SCHEDULER_PORT=1", "$(false) 'quoted' \"twice\""]


def test_a_shell_reads_the_env_file_and_the_scheduler_takes_it(tmp_path: Path) -> None:
    write_settings(tmp_path, CHOSEN, 4, ABOUT)
    script = f"set -aeu; . {shlex.quote(str(tmp_path / 'scheduler.env'))}; env -0"
    found = subprocess.run(
        ["sh", "-c", script], check=True, capture_output=True, text=True, env={"PATH": os.environ["PATH"]}
    )
    given = dict(line.split("=", 1) for line in found.stdout.split("\0") if line)
    names = [name for name in given if name.startswith("TRAIL_")]
    assert len(names) == 3
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setenv(name, given[name])
        choice = load(SchedulerSettings, []).choice
    assert (choice.preemption_limit, choice.preemption_margin, choice.aging_s) == (0.5, 1.0, 3.25)


def test_the_scheduler_takes_the_toml_file(tmp_path: Path) -> None:
    write_settings(tmp_path, CHOSEN, 4, ABOUT)
    choice = load(SchedulerSettings, ["--config", str(tmp_path / "scheduler.toml")]).choice
    assert (choice.preemption_limit, choice.preemption_margin, choice.aging_s) == (0.5, 1.0, 3.25)


@pytest.mark.parametrize("name", ["scheduler.toml", "scheduler.env"])
def test_what_stays_as_by_default_is_left_to_the_scheduler(tmp_path: Path, name: str) -> None:
    write_settings(tmp_path, {}, 1, [])
    lines = (tmp_path / name).read_text().lower().splitlines()
    assert not [line for line in lines if "aging_s" in line and not line.startswith("#")]


def test_k_is_told_as_the_adapter_takes_it(tmp_path: Path) -> None:
    write_settings(tmp_path, {}, 8, [])
    assert '"predict_every_tokens": 8' in (tmp_path / "scheduler.env").read_text()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--p99-slack", "-0.1"], "--p99-slack -0.1: must be 0 or more"),
        (["--p99-slack", "nan"], "--p99-slack nan: must be 0 or more"),
        (["--seeds", "0"], "--seeds 0: must be 1 or more"),
        (["--load", "0.5,x"], "--load 0.5,x: 'x'"),
        (["--slots", "0"], "--slots 0: must be 1 or more"),
        (["--kv-blocks", "90"], "--kv-blocks 90: the longest request"),
        (["--predictions", "nobody"], "--predictions nobody"),
        (["--trace", "no-such.csv"], "--trace no-such.csv: no such file"),
    ],
)
def test_bad_input_is_told_before_anything_runs(options: list[str], says: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["tune", "--out", str(tmp_path), *options])
    assert result.exit_code == 2
    assert result.stderr.startswith("trail tune: ")
    assert says in result.stderr
    assert not result.stdout


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = CliRunner().invoke(app, ["tune", "--out", str(tmp_path / "file")])
    assert result.exit_code == 2
    assert f"trail tune: --out {tmp_path / 'file'}: " in result.stderr
