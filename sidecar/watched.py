"""Files that may be replaced while a process runs: certificates, tokens, who may do what."""

from collections.abc import Iterable
from pathlib import Path

Fingerprint = tuple[tuple[int, int, int], ...]


def fingerprint(paths: Iterable[Path | None]) -> Fingerprint:
    """Changes when one of the files does; empty while one of them cannot be looked at."""
    try:
        stats = [path.stat() for path in paths if path is not None]
    except OSError:
        return ()
    return tuple((each.st_mtime_ns, each.st_size, each.st_ino) for each in stats)
