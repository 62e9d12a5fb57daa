"""A client's side: how a service is dialled, over TLS or not, and by what it knows who calls."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import grpc
from pydantic import Field, FilePath, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from sidecar import targets
from sidecar.addresses import is_loopback
from sidecar.watched import Fingerprint, fingerprint

Options = Sequence[tuple[str, Any]]


class DialError(ValueError):
    """A service cannot be dialled so; the text names the setting and what would do."""


@dataclass(frozen=True)
class Credentials:
    """Files in PEM, and one with a token. Without `ca_file`, plain text is spoken."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    server_name: str = ""
    token_file: Path | None = None
    unprotected: bool = False

    @property
    def fingerprint(self) -> Fingerprint:
        """Changes with the certificates: a channel keeps those that it was made with."""
        return fingerprint((self.ca_file, self.cert_file, self.key_file))

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What each call carries; the token is read anew each time. Raises DialError."""
        if self.token_file is None:
            return ()
        try:
            token = self.token_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise DialError(f"token_file {self.token_file}: {error}") from None
        if not token or not token.isprintable() or not token.isascii() or " " in token:
            raise DialError(f"token_file {self.token_file}: one line with a token is expected")
        return (("authorization", f"Bearer {token}"),)

    def channel(self, target: str, options: Options = ()) -> grpc.Channel:
        """For code that waits. Raises DialError."""
        secure = self._tls(target)
        options = self._options(options)
        channel = grpc.secure_channel(target, secure, options) if secure else grpc.insecure_channel(target, options)
        return grpc.intercept_channel(channel, _Token(self)) if self.token_file else channel

    def aio_channel(self, target: str, options: Options = ()) -> grpc.aio.Channel:
        """For an event loop. Its calls carry no token by themselves: give them `metadata`. Raises DialError."""
        secure = self._tls(target)
        options = self._options(options)
        if secure is None:
            return grpc.aio.insecure_channel(target, options)
        return grpc.aio.secure_channel(target, secure, options)

    def _options(self, options: Options) -> list[tuple[str, Any]]:
        return [*options, *([("grpc.ssl_target_name_override", self.server_name)] if self.server_name else [])]

    def _tls(self, target: str) -> grpc.ChannelCredentials | None:
        if self.ca_file is None:
            if self.token_file is not None and not self.unprotected and not _stays_here(target):
                raise DialError(
                    f"token_file: without tls_ca_file the token would travel to {target} in plain text: give it, or "
                    "set unprotected where the network encrypts"
                )
            return None
        try:
            root, key, certificate = (
                None if each is None else each.read_bytes() for each in (self.ca_file, self.key_file, self.cert_file)
            )
        except OSError as error:
            raise DialError(f"certificates: {error}") from None
        return grpc.ssl_channel_credentials(root, key, certificate)


class DialSettings(BaseSettings):
    """What every client of our services can be told."""

    tls_ca_file: FilePath | None = None
    """Certificates that the services' must be signed by (PEM), read again when they change; none: plain text."""
    tls_cert_file: FilePath | None = None
    """Our own certificate (PEM), where the services ask for one."""
    tls_key_file: FilePath | None = Field(default=None, validate_default=True)
    """Private key of tls_cert_file (PEM)."""
    tls_server_name: str = ""
    """Name that the services' certificates are for, where it is not that in their address."""
    token_file: FilePath | None = None
    """File with the token that tells the services who we are, read again for each stream."""
    unprotected: bool = False
    """Send the token in plain text to other machines too: only where the network itself encrypts."""

    @field_validator("tls_key_file")
    @classmethod
    def _of_a_certificate(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if (value is None) != (info.data.get("tls_cert_file") is None):
            raise ValueError("tls_cert_file and tls_key_file belong together: give both or none")
        if value is not None and info.data.get("tls_ca_file") is None:
            raise ValueError("tls_ca_file is missing: without it plain text is spoken")
        return value

    @property
    def credentials(self) -> Credentials:
        return Credentials(
            self.tls_ca_file,
            self.tls_cert_file,
            self.tls_key_file,
            self.tls_server_name,
            self.token_file,
            self.unprotected,
        )


class ClientSettings(DialSettings):
    """Of the commands that call a service: environment variables TRAIL_CLIENT_TLS_CA_FILE and so on."""

    model_config = SettingsConfigDict(env_prefix="TRAIL_CLIENT_", use_attribute_docstrings=True)


def of_environment(settings: type[DialSettings] = ClientSettings) -> Credentials:
    """As the environment says. Raises DialError."""
    try:
        return settings().credentials
    except ValidationError as error:
        problem = error.errors()[0]
        name = f"{settings.model_config.get('env_prefix', '')}{'_'.join(map(str, problem['loc']))}".upper()
        raise DialError(f"{name}: {problem['msg']}") from None


@contextlib.contextmanager
def dialled(address: str, options: Options = ()) -> Iterator[grpc.Channel]:
    """A channel to HOST:PORT, as the commands of a terminal open it. Raises DialError."""
    with of_environment().channel(targets.target(address), options) as channel:
        yield channel


class _Details(NamedTuple):
    method: str
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


class _Token(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Adds the token to each call."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def _intercept(self, continuation: Callable[[Any, Any], Any], details: Any, request: Any) -> Any:
        metadata = (*(details.metadata or ()), *self._credentials.metadata())
        with_token = _Details(
            details.method, details.timeout, metadata, details.credentials, details.wait_for_ready, details.compression
        )
        return continuation(with_token, request)

    intercept_unary_unary = _intercept  # type: ignore[assignment]
    intercept_unary_stream = _intercept  # type: ignore[assignment]
    intercept_stream_unary = _intercept  # type: ignore[assignment]
    intercept_stream_stream = _intercept  # type: ignore[assignment]


def _stays_here(target: str) -> bool:
    """Whether whatever is sent to a gRPC target stays on this machine."""
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    _, _, addresses = target.rpartition("/")
    if addresses.startswith(("ipv4:", "ipv6:")):
        addresses = addresses.split(":", 1)[1]
    return all(is_loopback(urlsplit(f"//{each}").hostname or "") for each in addresses.split(","))
