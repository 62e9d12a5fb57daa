import pytest

from sidecar.redis import connect
from sidecar.redis_url import StoreUrl, parse, without_password


@pytest.mark.parametrize(
    ("url", "store"),
    [
        ("redis://h:1/0", StoreUrl("single")),
        ("unix:///run/v.sock", StoreUrl("single")),
        ("rediss://u:p@h:1/0", StoreUrl("single", tls=True)),
        (
            "redis+sentinel://a:1,b/main",
            StoreUrl("sentinel", nodes=(("a", 1), ("b", 26379)), master="main"),
        ),
        (
            "rediss+sentinel://me:p%40ss@a:1/main/3",
            StoreUrl("sentinel", True, (("a", 1),), "main", 3, "me", "p@ss"),
        ),
        ("redis+cluster://a:1,[::1]:2", StoreUrl("cluster", nodes=(("a", 1), ("::1", 2)))),
        ("redis+cluster://[::1],b:2/", StoreUrl("cluster", nodes=(("::1", 6379), ("b", 2)))),
    ],
)
def test_a_url_says_what_kind_of_store_it_is_and_where(url: str, store: StoreUrl) -> None:
    assert parse(url) == store


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("localhost:6379", "redis\\+sentinel://"),
        ("http://h:1", "rediss instead of redis: TLS"),
        ("redis+ring://h:1", "must be redis://"),
        ("redis+sentinel://a:1,b:2", "name of the master is missing"),
        ("redis+sentinel://a:1/main/x", "is no number of a database"),
        ("redis+cluster://a:1/3", "a cluster has no numbered databases"),
        ("redis+cluster://a:0", "is no HOST:PORT"),
        ("redis+cluster://a:1,", "is no HOST:PORT"),
    ],
)
def test_a_url_that_cannot_be_is_refused_with_what_would_be_right(url: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse(url)


@pytest.mark.parametrize("kind", ["redis", "rediss", "redis+sentinel", "redis+cluster"])
@pytest.mark.parametrize("rest", ["me:s3{}cret@h:1/m/0", ":s3{}cret@h/m/0", "h:1s3{}cret/m/0", "[s3{}cret@h:1/m"])
@pytest.mark.parametrize("breaks", ["/", "#", "?", "@", ":", "[", "]", "%"])
def test_nothing_of_a_password_is_told(kind: str, rest: str, breaks: str) -> None:
    url = f"{kind}://{rest.format(breaks)}"
    told = ""
    try:
        connect(url, 100)
    except ValueError as error:
        told = str(error)
    assert "s3" not in told
    assert "cret" not in told


def test_people_are_shown_where_the_store_is_and_no_password() -> None:
    for url in ("redis://u:s3cret@h:1/0", "redis://h:1/0?password=s3cret", "redis://h:1/0#s3cret"):
        assert without_password(url) == "redis://h:1/0"
    assert without_password("u:s3cret@h:1") == ""
