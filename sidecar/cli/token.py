"""``trail token``: a new bearer token, and the lines of the access file that know it."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

BYTES = 32


def new_token(name: str, out: Path, engines: Sequence[str], *, admin: bool) -> str:
    """Writes a token into a new file for this user alone; returns an entry of the access file, with its hash only.

    Raises OSError, FileExistsError where the file is there: what it holds may be in use.
    """
    token = secrets.token_urlsafe(BYTES)
    handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(token + "\n")
    digest = hashlib.sha256(token.encode()).hexdigest()
    lines = [f"name = {json.dumps(name)}", f'tokens_sha256 = ["{digest}"]', f"engines = {json.dumps(list(engines))}"]
    return "\n".join(["[[clients]]", *lines, *(["admin = true"] if admin else [])])
