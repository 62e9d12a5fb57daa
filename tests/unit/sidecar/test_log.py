import asyncio
import contextlib
import json
import sys
from pathlib import Path

import pytest
import structlog

from sidecar import log
from sidecar.tracing import Span


def test_lines_are_json_objects_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "json")
    structlog.get_logger().info("ready", port=1)
    structlog.get_logger().debug("hidden")
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    line = json.loads(lines[0])
    assert (line["event"], line["port"], line["level"]) == ("ready", 1, "info")


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="loud"):
        log.configure("loud")


def test_a_line_inside_a_span_carries_its_ids_and_one_outside_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "json")
    trace_id, span_id = "a" * 32, "b" * 16
    with log.within(Span(f"00-{trace_id}-{span_id}-01")):
        structlog.get_logger().info("inside")
    with log.within(None):
        structlog.get_logger().info("outside")
    with log.within(Span("what a client sent")):
        structlog.get_logger().info("nonsense")
    inside, outside, nonsense = map(json.loads, capsys.readouterr().err.strip().splitlines())
    assert (inside["trace_id"], inside["span_id"]) == (trace_id, span_id)
    assert not {"trace_id", "span_id", "traceparent"} & (outside.keys() | nonsense.keys())


async def test_lines_of_a_task_and_its_children_name_the_engine(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "json")

    async def child() -> None:
        structlog.get_logger().info("child")

    async def stream(engine_id: str) -> None:
        log.of_engine(engine_id)
        await asyncio.create_task(child())

    await asyncio.gather(asyncio.create_task(stream("a")), asyncio.create_task(stream("b")))
    structlog.get_logger().info("nobody's")
    lines = [json.loads(line) for line in capsys.readouterr().err.strip().splitlines()]
    assert sorted((line["event"], line.get("engine", "")) for line in lines) == [
        ("child", "a"), ("child", "b"), ("nobody's", ""),
    ]  # fmt: skip


def test_people_get_lines_without_braces(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("info", "console")
    structlog.get_logger().info("ready", port=1)
    line = capsys.readouterr().err
    assert "ready" in line
    assert not line.lstrip().startswith("{")


def test_a_line_that_cannot_be_written_is_lost_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log.configure("info", "json")
    full = Path("/dev/full").open("w")  # noqa: SIM115 - closing it fails too
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", full)
        structlog.get_logger().info("lost")
    with contextlib.suppress(OSError):
        full.close()
    structlog.get_logger().info("written")
    assert json.loads(capsys.readouterr().err)["event"] == "written"
