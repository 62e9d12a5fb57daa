from pathlib import Path

import pytest
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from sidecar.settings import ServerSettings, load


class ExampleSettings(ServerSettings):
    model_config = SettingsConfigDict(env_prefix="TRAIL_EXAMPLE_")

    port: int = Field(default=7001, ge=0, le=65535)
    """TCP port of the example."""
    folders: list[Path] = [Path("a")]
    """Folders of examples."""


def test_defaults_hold_when_nothing_is_said() -> None:
    assert load(ExampleSettings, []).port == 7001


def test_flags_beat_the_environment_which_beats_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "example.toml"
    file.write_text('port = 1\nmax_rows_per_step = 2\nlog_level = "debug"\n')
    monkeypatch.setenv("TRAIL_EXAMPLE_PORT", "10")
    monkeypatch.setenv("TRAIL_EXAMPLE_MAX_ROWS_PER_STEP", "20")
    settings = load(ExampleSettings, ["--port", "100", "--config", str(file)])
    assert (settings.port, settings.max_rows_per_step, settings.log_level) == (100, 20, "debug")


def test_the_environment_names_the_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "example.toml"
    file.write_text('folders = ["b", "c"]\n')
    monkeypatch.setenv("TRAIL_EXAMPLE_CONFIG", str(file))
    assert load(ExampleSettings, []).folders == [Path("b"), Path("c")]


def test_lists_come_from_repeated_flags() -> None:
    assert load(ExampleSettings, ["--folders", "x", "--folders", "y"]).folders == [Path("x"), Path("y")]


def test_help_lists_every_flag_with_its_default_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        load(ExampleSettings, ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--port" in text
    assert "TCP port of the example. (default: 7001)" in text
    for name in ExampleSettings.model_fields:
        assert f"--{name.replace('_', '-')}" in text


@pytest.mark.parametrize("argv", [["--port", "70000"], ["--config", "/does/not/exist.toml"]])
def test_a_mistake_exits_with_one_line_that_names_it(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        load(ExampleSettings, argv)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert argv[0].strip("-") in lines[0]


def test_an_unknown_name_in_the_file_is_a_mistake(tmp_path: Path) -> None:
    file = tmp_path / "example.toml"
    file.write_text("prot = 1\n")
    with pytest.raises(SystemExit, match="2"):
        load(ExampleSettings, ["--config", str(file)])


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--redis-url", "localhost:6379"], "setting redis_url"),
        (["--redis-url", "redis+sentinel://a:1"], "name of the master is missing"),
        (["--redis-ca-file", "nowhere.pem"], "setting redis_ca_file"),
        (["--redis-key-file", __file__], "give both or none"),
        (["--redis-cert-file", __file__], "give both or none"),
        (["--max-connection-age-s", "-1"], "setting max_connection_age_s"),
    ],
)
def test_a_store_that_cannot_be_reached_so_is_refused(
    flags: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        load(ExampleSettings, flags)
    assert told in capsys.readouterr().err


def test_the_store_is_told_who_we_are_and_the_password_is_in_no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAIL_EXAMPLE_REDIS_PASSWORD", "s3cret")
    settings = load(ExampleSettings, ["--redis-username", "trail"])
    assert (settings.redis_access.username, settings.redis_access.password) == ("trail", "s3cret")
    assert "s3cret" not in repr(settings)
    assert "s3cret" not in repr(settings.redis_access)
