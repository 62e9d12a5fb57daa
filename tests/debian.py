"""Programs that come from Debian and not from PyPI."""

import os
import shutil

import pytest


def needed(program: str, package: str) -> str:
    """Path of the program. Where it is not installed the test is skipped, but fails where CI is set."""
    path = shutil.which(program)
    if path is None:
        text = f"{program} is not installed: apt-get install {package}"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)
    return path
