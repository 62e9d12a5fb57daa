"""Traces of engine steps through the real agent and services, to a real server of OTLP."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1 import trace_pb2

from tests.conftest import Valkey
from tests.integration.test_agent_real_services import Loop
from tests.otlp_collector import Collector, Part, collecting

STEP = ("trail-agent", "step")
PREDICT = ("trail-predictor", "predict")
PARENTS: dict[Part, Part] = {
    ("trail-agent", "send"): STEP,
    ("trail-agent", "predict"): STEP,
    PREDICT: ("trail-agent", "predict"),
    **{("trail-predictor", part): PREDICT for part in ("read", "queue", "compute", "model", "posterior", "store")},
    ("trail-scheduler", "step"): STEP,
    ("trail-scheduler", "plan"): PREDICT,
    ("trail-agent", "board"): ("trail-scheduler", "plan"),
}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as made:
        yield made


@asynccontextmanager
async def serving(loop: Loop) -> AsyncIterator[Loop]:
    await loop.start()
    try:
        yield loop
    finally:
        await loop.stop()


def whole(traces: list[dict[Part, trace_pb2.Span]]) -> list[dict[Part, trace_pb2.Span]]:
    return [trace for trace in traces if trace.keys() == {STEP, *PARENTS}]


async def test_one_trace_leads_from_the_engines_rows_to_the_plan_that_rests_on_them(
    tmp_path: Path, valkey: Valkey, collector: Collector
) -> None:
    async with serving(Loop(tmp_path, valkey, collector.endpoint, trace_ratio="1")) as loop:
        loop.harness.submit(4)
        await loop.harness.until(lambda: len(whole(collector.traces())) >= 5)
    for trace in whole(collector.traces()):
        assert not trace[STEP].parent_span_id
        assert {part: trace[parent].span_id for part, parent in PARENTS.items()} == {
            part: trace[part].parent_span_id for part in PARENTS
        }
        step, board = trace[STEP], trace["trail-agent", "board"]
        times = [trace[part].start_time_unix_nano for part in (STEP, ("trail-agent", "predict"), PREDICT)]
        times += [trace["trail-predictor", part].start_time_unix_nano for part in ("read", "queue", "model", "store")]
        times += [trace["trail-scheduler", "plan"].start_time_unix_nano, board.start_time_unix_nano]
        assert times == sorted(times)
        assert board.end_time_unix_nano <= step.end_time_unix_nano
        assert {each.key for each in step.attributes} == {"engine", "step"}


@pytest.mark.parametrize("collector_is", ["gone", "mute"])
async def test_a_collector_that_does_not_answer_changes_nothing(
    tmp_path: Path, valkey: Valkey, collector_is: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        endpoint = f"http://127.0.0.1:{listening.getsockname()[1]}"
        if collector_is == "gone":
            listening.close()
        async with serving(Loop(tmp_path, valkey, endpoint, trace_ratio="1")) as loop:
            await loop.harness.until(loop.connected)
            for length in (200, 20, 120, 40):
                loop.harness.submit(1, output_tokens=length)
            await loop.harness.until(lambda: not loop.engine.living)
            await loop.harness.until(lambda: loop.count("requests_finished") == 4, stepping=False)
            numbers = loop.harness.statistics()
            begun_s = time.monotonic()
            log = await loop.agent.end()
            assert time.monotonic() - begun_s < 5
    counters = numbers["counters"]
    assert numbers["refined_share"] > 0.9
    assert counters["predictor_streams_opened"] == counters["scheduler_streams_opened"] == 1
    assert counters["plans_applied"] > 20
    assert numbers["hop_seconds"]["plan"]["+Inf"] > 20
    assert numbers["hop_seconds"]["plan"]["0.1"] > 0.9 * numbers["hop_seconds"]["plan"]["+Inf"]
    for lines in (log, "".join(loop.predictor.log), "".join(loop.scheduler.log)):
        assert lines.count("traces are lost") <= 1
        assert "Traceback" not in lines


async def test_without_a_ratio_nothing_is_sent(tmp_path: Path, valkey: Valkey, collector: Collector) -> None:
    async with serving(Loop(tmp_path, valkey, collector.endpoint)) as loop:
        loop.harness.submit(4)
        await loop.refined_again()
        await asyncio.sleep(0.5)
    assert collector.received == []
