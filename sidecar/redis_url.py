"""Which store a URL names: one server, a master that Sentinels know, or a cluster."""

from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote

from redis.asyncio.connection import parse_url

Kind = Literal["single", "sentinel", "cluster"]

FORMS = (
    "redis://HOST:PORT/DB, unix:///PATH.sock, redis+sentinel://HOST:PORT,HOST:PORT/NAME or "
    "redis+cluster://HOST:PORT,HOST:PORT; rediss instead of redis: TLS"
)
_ESCAPES = "in a password, / is %2F, @ is %40, # is %23 and ? is %3F"
_KINDS: dict[str, Kind] = {"": "single", "sentinel": "sentinel", "cluster": "cluster"}
_DEFAULT_PORT = {"single": 6379, "sentinel": 26379, "cluster": 6379}


@dataclass(frozen=True)
class StoreUrl:
    """`nodes` are of Sentinels, or some of a cluster; `master` is the name that Sentinels know the master by."""

    kind: Kind
    tls: bool = False
    nodes: tuple[tuple[str, int], ...] = ()
    master: str = ""
    db: int = 0
    username: str = ""
    password: str = ""


def parse(url: str) -> StoreUrl:
    """Raises ValueError with what would be right, and without the URL: there may be a password in any part of it."""
    scheme, found, rest = url.partition("://")
    if found and scheme == "unix":
        _as_the_client_reads_it(url)
        return StoreUrl("single")
    base, _, suffix = scheme.partition("+")
    kind = _KINDS.get(suffix)
    if not found or base not in ("redis", "rediss") or kind is None:
        raise ValueError(f"must be {FORMS}")
    if kind == "single":
        _as_the_client_reads_it(url)
        return StoreUrl(kind, tls=base == "rediss")
    authority, _, path = rest.partition("/")
    credentials, _, hosts = authority.rpartition("@")
    username, _, password = credentials.partition(":")
    nodes = tuple(_node(each, _DEFAULT_PORT[kind]) for each in hosts.split(","))
    master, _, db = path.partition("/")
    if kind == "cluster" and path.strip("/"):
        raise ValueError("a cluster has no numbered databases: leave out what follows its addresses")
    if kind == "sentinel" and not master:
        raise ValueError("the name of the master is missing: redis+sentinel://HOST:PORT,HOST:PORT/NAME")
    if db and not db.isdigit():
        raise ValueError("what follows the last / is no number of a database")
    return StoreUrl(kind, base == "rediss", nodes, unquote(master), int(db or 0), unquote(username), unquote(password))


def without_password(url: str) -> str:
    """For people: what stands before the hosts and what follows a question mark or a # is left out."""
    scheme, found, rest = url.partition("://")
    hosts = rest.rpartition("@")[2].partition("?")[0].partition("#")[0]
    return f"{scheme}{found}{hosts}" if found else ""


def _as_the_client_reads_it(url: str) -> None:
    try:
        parse_url(url)
    except ValueError:
        # Its text may hold part of a password.
        raise ValueError(f"cannot be read: it must be {FORMS}; {_ESCAPES}") from None


def _node(text: str, default_port: int) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = text, str(default_port)
    host = host.strip("[]")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"one of its addresses is no HOST:PORT; {_ESCAPES}")
    return host, int(port)
