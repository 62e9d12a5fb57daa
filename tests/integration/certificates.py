"""A certificate authority for a test, and what it signed."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

AT_HOME = "IP:127.0.0.1,DNS:localhost"
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


@dataclass(frozen=True)
class Signed:
    """Files in PEM."""

    certificate: Path
    key: Path


class Authority:
    """Made by `openssl`, for a day."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self.certificate, self._key = folder / "ca.crt", folder / "ca.key"
        new = ["req", "-x509", *_NEW_KEY, "-nodes", "-days", "1", "-subj", "/CN=test authority"]
        _openssl(*new, "-keyout", self._key, "-out", self.certificate)

    def sign(self, name: str, alternative_names: str = AT_HOME, *, expired: bool = False) -> Signed:
        """For this common name, at 127.0.0.1 unless told otherwise; an expired one was good until yesterday."""
        signed = Signed(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        request, more = self._folder / f"{name}.csr", self._folder / f"{name}.ext"
        more.write_text(f"subjectAltName={alternative_names}\n" if alternative_names else "keyUsage=digitalSignature\n")
        _openssl("req", *_NEW_KEY, "-nodes", "-subj", f"/CN={name}", "-keyout", signed.key, "-out", request)
        authority = ["-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial"]
        days = "-1" if expired else "1"
        _openssl(
            "x509", "-req", "-days", days, "-in", request, "-extfile", more, *authority, "-out", signed.certificate
        )
        return signed


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
