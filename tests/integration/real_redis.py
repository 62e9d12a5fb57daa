"""Redis from Debian for tests: skipped with one line where it is not installed, but never in CI."""

import os

import pytest

from benchmarks import redis_servers


def require() -> None:
    """Skips the test, or fails it in CI, where the programs are not there."""
    if redis_servers.installed():
        return
    text = f"Redis is not installed: {redis_servers.HOW_TO_INSTALL}"
    if os.environ.get("CI"):
        pytest.fail(text)
    pytest.skip(text)
