"""Programs that come from Debian and not from PyPI."""

import os
import shutil
from typing import NoReturn

import pytest


def needed(program: str, package: str) -> str:
    """Path of the program. Where it is not installed the test is skipped, but fails where CI is set."""
    path = shutil.which(program)
    if path is None:
        missing(f"{program} is not installed: apt-get install {package}")
    return path


def missing(text: str) -> NoReturn:
    """Something that the test needs is not there: it is skipped, but fails where CI is set."""
    if os.environ.get("CI"):
        pytest.fail(text)
    pytest.skip(text)
