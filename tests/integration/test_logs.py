"""Log lines of the real processes: JSON, and those about a request name engine, request and trace."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine_adapter.simulated.engine import SimulatedEngine
from tests.conftest import Valkey
from tests.integration.agent_harness import ENGINE_ID
from tests.integration.test_agent_real_services import Loop


def parsed(lines: list[str]) -> list[dict[str, Any]]:
    """Every line is one JSON object with a time, a level and what happened."""
    found = [json.loads(line) for line in lines if line.strip()]
    assert all(line.keys() >= {"event", "level", "timestamp"} for line in found)
    return found


def of_requests(lines: list[dict[str, Any]], event: str) -> list[dict[str, Any]]:
    """Lines of this event, all of them about a request of our engine."""
    found = [line for line in lines if line["event"] == event]
    assert found
    assert all(line["engine"] == ENGINE_ID and line["request_id"].startswith("request-") for line in found)
    return found


def traces(lines: list[dict[str, Any]]) -> set[str]:
    """Ids of the traces that these lines belong to; each names its span too."""
    traced = [line for line in lines if "trace_id" in line]
    assert all(re.fullmatch("[0-9a-f]{32}", line["trace_id"]) for line in traced)
    assert all(re.fullmatch("[0-9a-f]{16}", line["span_id"]) for line in traced)
    return {line["trace_id"] for line in traced}


async def test_lines_about_a_request_carry_engine_request_and_trace(
    tmp_path: Path, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    for service in ("PREDICTOR", "SCHEDULER", "AGENT"):
        monkeypatch.setenv(f"TRAIL_{service}_LOG_LEVEL", "debug")
    loop = Loop(tmp_path, valkey, trace_ratio="1", max_requests="6")
    await loop.start()
    try:
        await loop.harness.until(loop.connected)
        monkeypatch.setattr(
            SimulatedEngine, "_vectors", lambda _, entries: np.full((len(entries), 16), np.nan, np.float16)
        )
        loop.harness.submit(8, output_tokens=10)
        await loop.harness.until(lambda: not loop.engine.living)
        await loop.harness.until(lambda: loop.count("requests_finished") == 6, stepping=False)
        await loop.harness.until(lambda: "request ended" in "".join(loop.scheduler.log), stepping=False)
    finally:
        agent = parsed((await loop.stop()).splitlines())
    predictor, scheduler = parsed(loop.predictor.log), parsed(loop.scheduler.log)
    assert len(of_requests(agent, "not declared")) == 2
    assert all(line.get("engine") == ENGINE_ID for line in agent if line["event"] != "traces are lost")
    refused = of_requests(predictor, "row not used")
    assert {line["status"] for line in refused} == {"not_finite"}
    assert traces(refused)
    of_requests(scheduler, "request ended")
    assert {line["engine"] for line in scheduler if line["event"] == "engine connected"} == {ENGINE_ID}


async def test_a_preemption_is_told_with_the_trace_of_the_plan_that_asks_for_it(
    tmp_path: Path, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"LOG_LEVEL": "debug", "PREEMPTION_MARGIN": "0", "PREEMPTION_RATIO": "1"}.items():
        monkeypatch.setenv(f"TRAIL_SCHEDULER_{name}", value)
    loop = Loop(tmp_path, valkey, trace_ratio="1")
    await loop.start()
    try:
        await loop.harness.until(loop.connected)
        loop.harness.submit(12, output_tokens=2_000)
        await loop.harness.until(
            lambda: traces([each for each in parsed([*loop.scheduler.log]) if "beneficiary" in each])
        )
    finally:
        await loop.stop()
    told = of_requests(parsed(loop.scheduler.log), "preemption planned")
    assert all(line["beneficiary"] != line["request_id"] for line in told)
