"""The checked-in Python of the contract."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROTO = Path(__file__).parents[2] / "proto"


def test_the_checked_in_code_is_what_the_contract_generates(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run([PROTO / "generate.sh", tmp_path], check=True, capture_output=True, env=os.environ | {"PATH": path})
    fresh = {file.name: file.read_text() for file in (tmp_path / "trail" / "v1").iterdir()}
    checked_in = {file.name: file.read_text() for file in (PROTO / "trail" / "v1").glob("*_pb2*")}
    assert fresh.keys() == checked_in.keys()
    stale = [name for name in fresh if fresh[name] != checked_in[name]]
    assert not stale, f"run `make proto`: {stale}"
