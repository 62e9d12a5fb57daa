"""`make audit` never takes silence for a clean bill."""

import re
from pathlib import Path
from typing import Any

import pytest

from deploy.audit import told

CLEAN = {"name": "numpy", "version": "2.0.0", "vulns": []}
KNOWN = {"name": "wheel", "version": "0.1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["0.2"]}]}
UNASKED = {"name": "ours", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("found", "status", "said"),
    [
        ({"dependencies": [CLEAN]}, 0, "1 packages asked about, 0 with known vulnerabilities"),
        ({"dependencies": [CLEAN, KNOWN]}, 1, "wheel 0.1: PYSEC-1; mended in 0.2"),
        ({"dependencies": [CLEAN, UNASKED]}, 2, "NOT AUDITED: .*of 1 packages nothing is known: ours"),
        ({"dependencies": [], "error": "no network"}, 2, "NOT AUDITED: .*no network"),
        ({"dependencies": [KNOWN, UNASKED]}, 1, "NOT AUDITED"),
    ],
)
def test_the_status_says_what_is_known(
    found: dict[str, Any], status: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(found, tmp_path / "found.json") == status
    assert re.search(said, "".join(capsys.readouterr()))
