"""Settings of a server: flags, then environment, then a TOML file, then defaults."""

import argparse
import os
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, FilePath, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from sidecar.addresses import is_loopback
from sidecar.redis import Access
from sidecar.redis_url import parse
from sidecar.tls import TlsFiles
from sidecar.tracing import needs_extra

S = TypeVar("S", bound=BaseSettings)

_SECRETIVE = ("password", "secret", "token", "url")
"""Settings whose name has one of these in it are never shown."""


def _store_url(url: str) -> str:
    parse(url)
    return url


class ServerSettings(BaseSettings):
    """What every server can be told. Subclasses set `env_prefix` and a default `port`."""

    model_config = SettingsConfigDict(extra="forbid", use_attribute_docstrings=True)

    config: Path | None = None
    """TOML file with any of these settings."""
    host: str = "127.0.0.1"
    """Address to listen on; any but loopback needs tls_cert_file, tls_key_file and access_file, or unprotected."""
    port: int = Field(ge=0, le=65535)
    """TCP port of the gRPC server; 0: any free one."""
    tls_cert_file: FilePath | None = None
    """Certificate of this server (PEM), read again when it changes; none: plain text."""
    tls_key_file: FilePath | None = Field(default=None, validate_default=True)
    """Private key of tls_cert_file (PEM)."""
    tls_client_ca_file: FilePath | None = None
    """Certificates that clients' must be signed by (PEM); none: clients show none, and are known by tokens."""
    access_file: FilePath | None = Field(default=None, validate_default=True)
    """Clients and what each may do (TOML, docs/security.md), read again when it changes; none: everybody everything."""
    unprotected: bool = Field(default=False, validate_default=True)
    """Listen on other addresses than loopback without TLS or access_file: where the network itself keeps others out."""
    metrics_host: str = "127.0.0.1"
    """Address of the Prometheus endpoint, which is plain text and tells everybody names of engines and models."""
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """TCP port of the Prometheus endpoint; 0: off."""
    max_connection_age_s: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Seconds after which a stream is ended in good order and opened anew, perhaps at another replica; 0: never."""
    max_message_bytes: int = Field(default=64 * 1024 * 1024, ge=1024)
    """Largest message that is accepted or sent."""
    max_rows_per_step: int = Field(default=4096, ge=1)
    """Most vectors in one message."""
    max_requests_per_engine: int = Field(default=16384, ge=1)
    """Most living requests of one engine."""
    drain_timeout_s: float = Field(default=5.0, ge=0)
    """Seconds that calls have to end after SIGTERM."""
    exit_with_parent: bool = False
    """End when standard input does: a supervisor holds its other end."""
    log_level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    """Least severity that is logged."""
    log_format: Literal["json", "console"] = "json"
    """Log lines for machines or for people."""
    redis_url: Annotated[str, AfterValidator(_store_url), Field(repr=False)] = "redis://127.0.0.1:6379/0"
    """Store: redis://host:port/db, unix:///path.sock, redis+sentinel://host:port,host:port/name or
    redis+cluster://host:port,host:port; rediss instead of redis: TLS."""
    redis_username: str = ""
    """ACL user of the store; empty: as the URL says, or the default user."""
    redis_password: SecretStr = SecretStr("")
    """Password of that user; better as an environment variable than as a flag, which others can see."""
    redis_sentinel_password: SecretStr = SecretStr("")
    """Password of the Sentinels, where they have one."""
    redis_ca_file: FilePath | None = None
    """Certificates that the store's must be signed by (PEM); none: those of the system."""
    redis_cert_file: FilePath | None = None
    """Our own certificate (PEM), where the store asks for one."""
    redis_key_file: FilePath | None = Field(default=None, validate_default=True)
    """Private key of redis_cert_file (PEM)."""
    redis_timeout_ms: int = Field(default=250, ge=1)
    """Milliseconds after which the store counts as gone for one command."""
    otlp_endpoint: Annotated[str, AfterValidator(needs_extra)] = ""
    """Collector of traces, OTLP over gRPC: http://host:4317; empty: OTEL_EXPORTER_OTLP_ENDPOINT, or none."""

    @property
    def redis_access(self) -> Access:
        """What `sidecar.redis.connect` takes beside the URL."""
        return Access(
            self.redis_username,
            self.redis_password.get_secret_value(),
            self.redis_sentinel_password.get_secret_value(),
            self.redis_ca_file,
            self.redis_cert_file,
            self.redis_key_file,
        )

    @property
    def tls_files(self) -> TlsFiles | None:
        """None: plain text."""
        if self.tls_cert_file is None or self.tls_key_file is None:
            return None
        return TlsFiles(self.tls_cert_file, self.tls_key_file, self.tls_client_ca_file)

    @field_validator("redis_key_file", "tls_key_file")
    @classmethod
    def _of_a_certificate(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        certificate = str(info.field_name).replace("key", "cert")
        if (value is None) != (info.data.get(certificate) is None):
            raise ValueError(f"{certificate} and {info.field_name} belong together: give both or none")
        return value

    @field_validator("access_file")
    @classmethod
    def _says_who_clients_are(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if info.data.get("tls_client_ca_file") is None:
            return value
        if info.data.get("tls_cert_file") is None:
            raise ValueError("tls_client_ca_file needs tls_cert_file: without TLS nobody shows a certificate")
        if value is None:
            raise ValueError("tls_client_ca_file needs access_file: it says what each client may do")
        return value

    @field_validator("unprotected")
    @classmethod
    def _or_nobody_else_can_reach_it(cls, value: bool, info: ValidationInfo) -> bool:
        host, named = info.data.get("host", ""), ("tls_cert_file", "tls_key_file", "access_file")
        missing = [name for name in named if name in info.data and info.data[name] is None]
        if missing and not value and not is_loopback(host):
            raise ValueError(
                f"host {host} can be reached by others: give {', '.join(missing)}, or --unprotected where the network "
                "itself keeps strangers out (docs/security.md)"
            )
        return value


def load(settings_class: type[S], argv: Sequence[str] | None = None) -> S:
    """Reads settings for a process: flags in `argv` (default: the command line's) > environment
    (`env_prefix` + name) > the TOML file of `--config` or `<env_prefix>CONFIG` > defaults.

    `--help` lists all flags. Exits with status 2 and one line for each mistake.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        file_values = _read_toml(_config_path(settings_class, arguments))
        return _with_sources(settings_class, arguments, file_values)()
    except ValidationError as error:
        for problem in error.errors():
            name = ".".join(str(part) for part in problem["loc"])
            print(f"setting {name}: {problem['msg']}{_got(name, problem)}", file=sys.stderr)
        raise SystemExit(2) from None
    except SettingsError as error:
        print(_wrong_flag(settings_class, arguments, str(error)), file=sys.stderr)
        raise SystemExit(2) from None
    except (OSError, tomllib.TOMLDecodeError) as error:
        print(f"config file: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _got(name: str, problem: Mapping[str, Any]) -> str:
    """What was given, unless it may be a secret, or the secret of a name that was misspelt."""
    told = problem["type"] not in ("extra_forbidden", "value_error") and not any(part in name for part in _SECRETIVE)
    return f" (got {problem.get('input')!r})" if told else ""


def _wrong_flag(settings_class: type[BaseSettings], argv: Sequence[str], problem: str) -> str:
    """Names flags, and no value that was given: a secret may have gone to a flag that is misspelt."""
    named = {each.partition("=")[0] for each in argv if each.startswith("-")}
    names = {name.replace("_", "-") for name in settings_class.model_fields}
    known = {"-h", "--help"} | {f"--{no}{name}" for name in names for no in ("", "no-")}
    if unknown := sorted(each for each in named - known if each.startswith("--")):
        return f"unknown flag {', '.join(unknown)}: --help lists all"
    if told := re.search(r"argument (--[\w/-]+)", problem):
        return f"flag {told[1]}: cannot be read so; --help says how"
    return "a value belongs to no flag: --help lists all" if "unrecognized" in problem else problem


def _config_path(settings_class: type[BaseSettings], argv: Sequence[str]) -> str | None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    flag: str | None = parser.parse_known_args(argv)[0].config
    prefix = settings_class.model_config.get("env_prefix", "")
    return flag or os.environ.get(f"{prefix}CONFIG")


def _read_toml(path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    with Path(path).open("rb") as file:
        return tomllib.load(file)


def _with_sources(settings_class: type[S], argv: list[str], file_values: dict[str, Any]) -> type[S]:
    """The same settings, read from the given command line and file too."""

    class Loaded(settings_class):  # type: ignore[valid-type,misc]
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            flags: CliSettingsSource[Any] = CliSettingsSource(
                settings_cls,
                cli_parse_args=argv,
                cli_kebab_case=True,
                cli_implicit_flags=True,
                cli_avoid_json=True,
                cli_hide_none_type=True,
                cli_exit_on_error=False,
            )
            return flags, env_settings, InitSettingsSource(settings_cls, file_values)

    Loaded.__name__, Loaded.__doc__ = settings_class.__name__, settings_class.__doc__
    return Loaded
