from pathlib import Path

import pytest

from sidecar.dial import ClientSettings, Credentials, DialError, of_environment


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("correct-horse\n")
    return path


def test_the_token_is_read_anew_for_each_call(token_file: Path) -> None:
    credentials = Credentials(token_file=token_file)
    assert credentials.metadata() == (("authorization", "Bearer correct-horse"),)
    token_file.write_text("another")
    assert credentials.metadata() == (("authorization", "Bearer another"),)


@pytest.mark.parametrize("text", ["", "two words", "line\nline", "umläut", "nul\0"])
def test_a_file_that_holds_no_token_is_told_without_what_it_holds(token_file: Path, text: str) -> None:
    token_file.write_text(text)
    with pytest.raises(DialError, match="token_file") as error:
        Credentials(token_file=token_file).metadata()
    assert not text or text not in str(error.value)


@pytest.mark.parametrize(
    "target",
    ["example:50061", "dns:///predictors:50061", "ipv4:127.0.0.1:1,10.0.0.1:2", "10.1.2.3:50061", "[fe80::1]:1"],
)
def test_a_token_does_not_travel_in_plain_text(token_file: Path, target: str) -> None:
    with pytest.raises(DialError, match="tls_ca_file"):
        Credentials(token_file=token_file).channel(target)
    Credentials(token_file=token_file, unprotected=True).channel(target).close()


@pytest.mark.parametrize(
    "target",
    ["localhost:1", "127.0.0.1:1", "dns:///localhost:1", "ipv4:127.0.0.1:1,127.0.0.2:2", "[::1]:1", "unix:///a"],
)
def test_on_this_machine_it_does(token_file: Path, target: str) -> None:
    Credentials(token_file=token_file).channel(target).close()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"TLS_CERT_FILE": __file__}, "give both or none"),
        ({"TLS_CERT_FILE": __file__, "TLS_KEY_FILE": __file__}, "tls_ca_file is missing"),
        ({"TLS_CA_FILE": "nowhere.pem"}, "TRAIL_CLIENT_TLS_CA_FILE"),
        ({"TOKEN_FILE": "nowhere"}, "TRAIL_CLIENT_TOKEN_FILE"),
    ],
)
def test_a_mistake_in_the_environment_is_named(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], told: str
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(f"TRAIL_CLIENT_{name}", value)
    with pytest.raises(DialError, match=told):
        of_environment(ClientSettings)
