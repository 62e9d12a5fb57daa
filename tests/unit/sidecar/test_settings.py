from pathlib import Path

import pytest
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from engine_adapter.agent.settings import AgentSettings
from predictor_service.settings import PredictorSettings
from scheduler_service.settings import SchedulerSettings
from sidecar.dial import ClientSettings
from sidecar.redis_url import without_password
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


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--redis-pasword", "s3cret"], "unknown flag --redis-pasword"),
        (["--redis-pasword=s3cret"], "unknown flag --redis-pasword"),
        (["--redis-pasword", "s3cret with a --blank"], "unknown flag --redis-pasword"),
        (["s3cret"], "belongs to no flag"),
        (["--unprotected=s3cret"], "flag --unprotected"),
        (["--port"], "flag --port"),
    ],
)
def test_a_wrong_flag_is_named_and_what_was_given_to_it_is_not(
    argv: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        load(ExampleSettings, argv)
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert "s3cret" not in error
    assert "blank" not in error


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


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Flags of files that are there, by setting."""
    found = {}
    for name in ("tls_cert_file", "tls_key_file", "tls_client_ca_file", "access_file"):
        (tmp_path / name).touch()
        found[name] = f"--{name.replace('_', '-')}={tmp_path / name}"
    return found


PUBLIC = ["0.0.0.0", "::", "10.0.0.5", "scheduler.example", "[2001:db8::1]", ""]  # noqa: S104 - that is the point


@pytest.mark.parametrize("host", PUBLIC)
def test_an_address_that_others_reach_is_refused_unless_protected_or_forced(
    host: str, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    protection = ("tls_cert_file", "tls_key_file", "access_file")
    for given in ((), protection[:2], protection[2:]):
        with pytest.raises(SystemExit, match="2"):
            load(ExampleSettings, [f"--host={host}", *(files[name] for name in given)])
        [line] = capsys.readouterr().err.strip().splitlines()
        assert line.startswith(f"setting unprotected: Value error, host {host} can be reached by others: give ")
        missing, _, forced = line.partition(", or --unprotected")
        assert forced
        assert all((name in missing) == (name not in given) for name in protection)
    assert load(ExampleSettings, [f"--host={host}", *(files[name] for name in protection)]).host == host
    assert load(ExampleSettings, [f"--host={host}", "--unprotected"]).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]"])
def test_on_loopback_nothing_has_to_be_given(host: str) -> None:
    settings = load(ExampleSettings, ["--host", host])
    assert not settings.unprotected
    assert settings.metrics_host == "127.0.0.1"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("tls_cert_file",), "give both or none"),
        (("tls_key_file",), "give both or none"),
        (("tls_client_ca_file", "access_file"), "needs tls_cert_file"),
        (("tls_cert_file", "tls_key_file", "tls_client_ca_file"), "needs access_file"),
    ],
)
def test_half_a_protection_is_none(
    given: tuple[str, ...], told: str, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        load(ExampleSettings, [files[name] for name in given])
    assert told in capsys.readouterr().err


SECRET = "s3cret-horse"  # noqa: S105 - looked for in what is shown
OURS = (PredictorSettings, SchedulerSettings, AgentSettings, ClientSettings)


@pytest.mark.parametrize("settings", OURS)
def test_no_setting_that_holds_a_secret_is_shown(
    settings: type[BaseSettings], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By repr and --help, whatever the environment says."""
    secrets = [name for name in settings.model_fields if "password" in name or name.endswith("url")]
    assert bool(secrets) == issubclass(settings, ServerSettings)
    for name in secrets:
        value = f"redis://user:{SECRET}@store:6379/0" if name.endswith("url") else SECRET
        monkeypatch.setenv(f"{settings.model_config['env_prefix']}{name.upper()}", value)
    loaded = load(settings, [])
    assert all(
        SECRET in str(getattr(getattr(loaded, n), "get_secret_value", lambda n=n: getattr(loaded, n))())
        for n in secrets
    )
    with pytest.raises(SystemExit, match="0"):
        load(settings, ["--help"])
    assert SECRET not in capsys.readouterr().out + repr(loaded) + str(loaded)


@pytest.mark.parametrize("settings", [PredictorSettings, SchedulerSettings])
@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("file", f'redis_pasword = "{SECRET}"'),
        ("file", f"redis_password = ['{SECRET}']"),
        ("file", f'redis_url = "postgres://user:{SECRET}@store"'),
        ("flag", f"--redis-url=redis+sentinel://user:{SECRET}@store"),
        ("flag", f"--redis-url=redis+sentinel://user:{SECRET}@store:x/name"),
        ("flag", f"--redis-url=redis+cluster://user:half/{SECRET}@store:1"),
        ("flag", f"--redis-url=redis+sentinel://user:{SECRET}/@store:1/name"),
    ],
)
def test_a_secret_in_a_setting_that_is_refused_is_not_shown(
    settings: type[ServerSettings], where: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "settings.toml").write_text(text if where == "file" else "")
    with pytest.raises(SystemExit, match="2"):
        load(settings, ["--config", str(tmp_path / "settings.toml"), *([text] if where == "flag" else [])])
    said = capsys.readouterr()
    assert "setting redis_" in said.err
    assert SECRET not in said.err + said.out


def test_the_address_of_the_store_is_told_to_people_without_its_password() -> None:
    for url, told in {
        f"rediss://user:{SECRET}@store:6379/0?password={SECRET}": "rediss://store:6379/0",
        f"redis+cluster://u:{SECRET}/@a:1,b:2": "redis+cluster://a:1,b:2",
        "unix:///run/store.sock": "unix:///run/store.sock",
    }.items():
        assert without_password(url) == told
