"""`trail ab` as it is typed, against a real scheduler."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from sidecar.cli.ab.arms import parse_arm
from sidecar.cli.ab.errors import AbError
from sidecar.cli.ab.times import duration, seconds
from tests.conftest import Valkey
from tests.integration.service_process import ServiceProcess
from tests.integration.test_experiments import Stub, awaited, connected_engines, stepping
from tests.patience import PATIENCE_S


@pytest.fixture
def scheduler(valkey: Valkey) -> Iterator[ServiceProcess]:
    process = ServiceProcess("scheduler_service.main", redis_url=valkey.url)
    process.start()
    yield process
    process.kill()


async def trail(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sidecar.cli.main", "ab", *arguments]
    environment = os.environ | {"COLUMNS": "160", "NO_COLOR": "1"}
    return await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, env=environment, timeout=PATIENCE_S
    )


@pytest.mark.timeout(180)
async def test_from_create_to_report(scheduler: ServiceProcess, tmp_path: Path):
    async with grpc.aio.insecure_channel(scheduler.target) as channel, stepping(channel, "a", "b"):
        await connected_engines(Stub(channel), "a", "b")
        address = ("--scheduler", scheduler.target)
        arms = ("--arm", "control=fcfs", "--arm", "treatment=srpt:predictor=oracle")
        timing = ("--block", "1s", "--washout", "100ms", "--noise", "0.1", "--effect", "0.1")
        created = await trail("create", "mine", *arms, *timing, *address)
        assert created.returncode == 0, created.stderr
        assert "a, b" in created.stdout
        assert "pairs of blocks needed" in created.stdout
        begun = await trail("start", "mine", *address)
        assert "runs from" in begun.stdout, begun.stderr
        await awaited(Stub(channel), "mine", lambda found: sum(b.requests > 0 for b in found.blocks) >= 8, "blocks")
        listed = await trail("status", "mine", *address)
        assert "running" in listed.stdout
        assert "treatment" in listed.stdout
        page = tmp_path / "page" / "report.html"
        told = await trail("report", "mine", "--json", "--out", str(page), *address)
        found = json.loads(told.stdout)
        assert found["state"] == "running"
        assert found["verdicts"][0]["deciding"]["control"] == pytest.approx(0.05)
        text = page.read_text()
        assert "<svg" in text
        assert "mine" in text
        assert not re.search(r"(src|href)=.http|url\(http|<script", text), "the page needs nothing from elsewhere"
        shown = await trail("report", "mine", *address)
        assert "mean latency" in shown.stdout
        stopped = await trail("stop", "mine", "--reason", "seen enough", *address)
        assert stopped.returncode == 0
        again = await trail("stop", "mine", *address)
        assert (again.returncode, again.stdout) == (2, "")
        assert "was stopped before" in again.stderr


async def test_nobody_there_is_one_line():
    answer = await trail("status", "--scheduler", "127.0.0.1:9")
    assert answer.returncode == 2
    assert answer.stderr.strip() == "trail ab: no scheduler service answers at 127.0.0.1:9 (--scheduler)"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("control", "NAME="),
        ("a=", "NAME="),
        ("a=bogus", "bogus"),
        ("a=trail:speed=3", "speed"),
        ("a=trail:c", "key=value"),
        ("a=trail:c=much", "much"),
        ("a=trail:c=3", "0 to 1"),
        ("a=artefact", "artefact:NAME"),
    ],
)
def test_an_arm_that_cannot_be_read_is_refused(text: str, says: str):
    with pytest.raises(AbError, match="--arm") as refused:
        parse_arm(text)
    assert says in str(refused.value)


def test_arms_are_read():
    assert parse_arm("a=own").policy == {}
    assert parse_arm("a=trail:c=0.5:aging=none").policy == {"policy": "trail", "preemption_limit": 0.5, "aging": "none"}
    assert parse_arm("a=artefact:next").artefact == "next"


def test_times_are_read_and_written():
    assert [seconds("--block", text) for text in ("90", "90s", "30m", "1.5h", "1d", "250ms")] == [
        90, 90, 1800, 5400, 86400, 0.25,
    ]  # fmt: skip
    assert [duration(value) for value in (0.5, 90, 5400, 90000)] == ["0.5 s", "1 min 30 s", "1 h 30 min", "1 d 1 h"]
    with pytest.raises(AbError, match="--block"):
        seconds("--block", "soon")
