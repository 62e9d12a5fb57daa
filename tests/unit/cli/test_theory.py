"""The command ``trail theory``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sidecar.cli.main import app

CLI = CliRunner()


def test_json_holds_theory_beside_simulation() -> None:
    done = CLI.invoke(app, ["theory", "--load", "0.5,0.7", "--c", "0,1", "--requests", "100000", "--json"])
    assert done.exit_code == 0, done.output
    settings = json.loads(done.stdout)["settings"]
    assert [each["load"] for each in settings] == [0.5, 0.7]
    for each in settings:
        assert [row["c"] for row in each["rows"]] == [0, 1]
        assert each["srpt"] < each["rows"][1]["theory"] < each["rows"][0]["theory"] < each["fcfs"]
        for row in each["rows"]:
            assert row["theory"] == pytest.approx(row["simulation"]["mean"], rel=0.03)
            assert row["relative_difference"] == pytest.approx(row["theory"] / row["simulation"]["mean"] - 1)


def test_the_table_needs_no_simulation_and_the_plot_is_drawn(tmp_path: Path) -> None:
    plot = tmp_path / "theory.png"
    asked = ["--load", "0.8", "--c", "0,1", "--predictions", "perfect", "--requests", "0", "--plot", str(plot)]
    done = CLI.invoke(app, ["theory", *asked])
    assert done.exit_code == 0, done.output
    assert "2.353" in done.stdout
    assert "5.000" in done.stdout
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--load", "1"), ("--load", "0.5,x"), ("--load", "-1"), ("--c", "1.5"), ("--c", ""), ("--sizes", "pareto"),
        ("--predictions", "lognormal:0"), ("--requests", "10"), ("--seed", "-1"), ("--plot", "theory.txt"),
    ],
)  # fmt: skip
def test_a_bad_option_is_named_and_ends_with_2(option: str, value: str) -> None:
    done = CLI.invoke(app, ["theory", option, value])
    assert done.exit_code == 2
    assert f"trail theory: {option}: " in done.stderr
