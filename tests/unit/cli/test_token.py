import stat
from pathlib import Path

from typer.testing import CliRunner

from sidecar.access import read
from sidecar.cli.main import app


def test_a_new_token_is_known_by_what_is_printed_and_is_not_printed_itself(tmp_path: Path) -> None:
    out = tmp_path / "a.token"
    flags = ["token", 'team "a"', "--out", str(out), "--engine", "a-*", "--engine", "b", "--admin"]
    done = CliRunner().invoke(app, flags)
    assert done.exit_code == 0
    token = out.read_text().strip()
    assert token not in done.output
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    (tmp_path / "access.toml").write_text(done.stdout)
    client = read(tmp_path / "access.toml").identify(token, [])
    assert client is not None
    assert (client.name, client.engines, client.admin) == ('team "a"', ("a-*", "b"), True)


def test_a_token_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "a.token"
    out.write_text("in use")
    done = CliRunner().invoke(app, ["token", "a", "--out", str(out), "--engine", "*"])
    assert done.exit_code == 1
    assert "a.token" in done.stderr
    assert out.read_text() == "in use"
