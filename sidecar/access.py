"""Who may call a service, and what each may do: a TOML file.

[[clients]]
name = "team-a"
tokens_sha256 = ["9f86d0..."]                  # of bearer tokens, in hexadecimal; `trail token` makes them
certificates = ["agent.team-a.example"]        # or names in client certificates (see `identify`)
engines = ["team-a-*", "shared-1"]             # engines it may claim, feed and read; * and ? are wildcards
admin = false                                  # policies, experiments, reflection
"""

import hashlib
import hmac
import tomllib
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(min_length=1, max_length=256)]


class AccessError(ValueError):
    """A file that cannot be used; the text names the field. It never holds what the file says of tokens."""


class Client(BaseModel):
    """One client and its permissions; everything that is not given to it is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    tokens_sha256: tuple[Sha256, ...] = Field(default=(), repr=False)
    certificates: tuple[Name, ...] = ()
    engines: tuple[Name, ...] = ()
    admin: bool = False

    @model_validator(mode="after")
    def _can_be_known(self) -> Self:
        if not self.tokens_sha256 and not self.certificates:
            raise ValueError("tokens_sha256 or certificates must be given: nobody could be this client")
        return self

    def may_use(self, engine_id: str) -> bool:
        """Whether the engine is one of its own."""
        return any(fnmatchcase(engine_id, pattern) for pattern in self.engines)


class Access(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    clients: tuple[Client, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _told_apart(self) -> Self:
        for what in ("name", "tokens_sha256", "certificates"):
            seen: set[str] = set()
            for each in self.clients:
                value = getattr(each, what)
                values = {value} if isinstance(value, str) else set(value)
                if seen & values:
                    raise ValueError(f"{what}: the same one for two clients")
                seen |= values
        return self

    def identify(self, token: str | None, certificate_names: Collection[str]) -> Client | None:
        """The client of a bearer token, or, where none was sent, that of a verified certificate, by one of its
        alternative names (or its common name, where it has none); None: nobody that is known."""
        if token is None:
            return next(
                (each for each in self.clients if not set(each.certificates).isdisjoint(certificate_names)), None
            )
        given = hashlib.sha256(token.encode()).hexdigest()
        # All are compared, each in constant time: how long it takes says nothing.
        found = [client for client, known in self._tokens() if hmac.compare_digest(known, given)]
        return found[0] if found else None

    def _tokens(self) -> Iterator[tuple[Client, str]]:
        return ((client, known) for client in self.clients for known in client.tokens_sha256)


def read(path: Path) -> Access:
    """Raises AccessError."""
    try:
        return Access.model_validate(tomllib.loads(path.read_text()))
    except ValidationError as error:
        # Neither what was given nor pydantic's own text, which repeats it.
        faults = {f"{'.'.join(map(str, each['loc'])) or 'clients'}: {each['msg']}" for each in error.errors()}
        raise AccessError(f"access_file {path}: {'; '.join(sorted(faults))}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise AccessError(f"access_file {path}: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise AccessError(f"access_file {path}: {error}") from None
