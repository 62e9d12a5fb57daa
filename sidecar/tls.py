"""A server's side of TLS. Certificates are read again when their files change, for the handshakes from then on."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog

from sidecar.watched import fingerprint


class TlsError(ValueError):
    """Certificates that cannot be used; the text names the file."""


@dataclass(frozen=True)
class TlsFiles:
    """In PEM."""

    cert_file: Path
    key_file: Path
    client_ca_file: Path | None = None
    """What clients' certificates must be signed by; None: nobody is asked for one."""


class ServerTls:
    """Credentials of a gRPC server that follow their files."""

    def __init__(self, files: TlsFiles) -> None:
        """Raises TlsError."""
        self._files = files
        self._seen = fingerprint(self._paths)
        self._first = _read(files)
        self._log = structlog.get_logger("tls")

    def credentials(self) -> grpc.ServerCredentials:
        """Whoever has no certificate of `client_ca_file`, or an expired one, does not get past the handshake."""
        return grpc.dynamic_ssl_server_credentials(
            self._first,
            self._changed,  # type: ignore[arg-type]  # it may return None
            require_client_authentication=self._files.client_ca_file is not None,
        )

    @property
    def _paths(self) -> tuple[Path | None, ...]:
        return self._files.cert_file, self._files.key_file, self._files.client_ca_file

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """gRPC asks before each handshake; None: nothing new. Files that do not fit together are not used: one of them
        may be yet to come."""
        now = fingerprint(self._paths)
        if not now or now == self._seen:
            return None
        self._seen = now
        try:
            found = _read(self._files)
        except TlsError as error:
            self._log.error("certificates were not taken; those before them serve", reason=str(error))
            return None
        self._log.info("new certificates", cert_file=str(self._files.cert_file))
        return found


def _read(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # A password would be asked for on the terminal.
        context.load_cert_chain(files.cert_file, files.key_file, password=lambda: "")
    except (OSError, ValueError) as error:
        raise TlsError(f"tls_cert_file {files.cert_file} and tls_key_file {files.key_file}: {error}") from None
    try:
        if files.client_ca_file is not None:
            context.load_verify_locations(files.client_ca_file)
        roots = None if files.client_ca_file is None else files.client_ca_file.read_bytes()
        pair = files.key_file.read_bytes(), files.cert_file.read_bytes()
    except OSError as error:
        raise TlsError(f"tls_client_ca_file {files.client_ca_file}: {error}") from None
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=roots)
