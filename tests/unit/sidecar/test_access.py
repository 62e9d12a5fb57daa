import hashlib
from pathlib import Path

import pytest

from sidecar.access import AccessError, read

TOKEN, OTHER = "correct-horse", "battery-staple"


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "access.toml"
    path.write_text(text)
    return path


FILE = f"""
[[clients]]
name = "a"
tokens_sha256 = ["{digest(TOKEN)}", "{digest("the next one")}"]
engines = ["a-*", "shared"]

[[clients]]
name = "b"
certificates = ["b.example", "spiffe://example/b"]
admin = true
"""


def test_a_client_is_known_by_any_of_its_tokens_or_names(tmp_path: Path) -> None:
    access = read(written(tmp_path, FILE))
    for token in (TOKEN, "the next one"):
        assert (found := access.identify(token, [])) is not None
        assert found.name == "a"
    assert (named := access.identify(None, ["unknown", "spiffe://example/b"])) is not None
    assert (named.name, named.admin) == ("b", True)


@pytest.mark.parametrize("token", [OTHER, "", TOKEN + " ", TOKEN.upper(), digest(TOKEN)])
def test_any_other_token_is_nobody_s_whatever_certificate_comes_with_it(tmp_path: Path, token: str) -> None:
    assert read(written(tmp_path, FILE)).identify(token, ["b.example"]) is None


def test_without_token_and_name_it_is_nobody(tmp_path: Path) -> None:
    assert read(written(tmp_path, FILE)).identify(None, []) is None


def test_engines_are_given_by_name_or_pattern(tmp_path: Path) -> None:
    client = read(written(tmp_path, FILE)).clients[0]
    assert [each for each in ("a-1", "shared", "b-1", "a", "xa-1", "shared2", "A-1", "") if client.may_use(each)] == [
        "a-1",
        "shared",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("clients = []", "clients"),
        ('[[clients]]\nname = "a"\n', "clients.0.*tokens_sha256 or certificates"),
        (f'[[clients]]\nname = "a"\ntokens_sha256 = ["{TOKEN}"]\n', r"clients.0.tokens_sha256.0"),
        (f'[[clients]]\nname = "a"\ntoken = "{TOKEN}"\n', "clients.0.token"),
        (FILE.replace('"b"', '"a"', 1), "name: the same one"),
        (FILE + f'[[clients]]\nname = "c"\ntokens_sha256 = ["{digest(TOKEN)}"]\n', "tokens_sha256: the same one"),
        (f'[[clients]]\nname = "{TOKEN}', "Unterminated"),
    ],
)
def test_a_mistake_is_told_by_its_field_and_without_the_secret(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(AccessError, match=told) as error:
        read(written(tmp_path, text))
    assert TOKEN not in str(error.value)
    assert digest(TOKEN) not in str(error.value)


def test_hashes_are_in_no_repr(tmp_path: Path) -> None:
    assert digest(TOKEN) not in repr(read(written(tmp_path, FILE)))
