"""`trail serve --agent-metrics-port`: the agent beside an engine serves its metrics, on loopback."""

import time
from pathlib import Path

import httpx
import pytest

from sidecar.cli.demo.engine import free_port
from sidecar.cli.serve import agent_beside

NOBODY = "127.0.0.1:1"


def test_the_agent_beside_an_engine_serves_metrics_where_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAIL_AGENT_SHM_ROOT", str(tmp_path))
    port = free_port()
    with agent_beside("e", NOBODY, NOBODY, "", metrics_port=port), httpx.Client(timeout=5) as client:
        deadline_s = time.monotonic() + 30
        while True:
            try:
                text = client.get(f"http://127.0.0.1:{port}/metrics").text
                break
            except httpx.ConnectError:
                assert time.monotonic() < deadline_s
                time.sleep(0.1)
    assert 'trail_agent_steps_total{engine="e"} 0.0' in text
    assert 'trail_agent_connected{engine="e",link="predictor_link"} 0.0' in text
