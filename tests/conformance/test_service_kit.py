"""The service kit passes our own services, and says of a wrong one what is wrong."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from predictor_service import wire
from predictor_service.engine import Engine, Stream
from predictor_service.session import EngineSession
from scheduler_service.sessions import Sessions
from scheduler_service.state import EngineState
from sidecar import errors
from sidecar.cli.conformance.service.channel import Limits
from sidecar.cli.conformance.service.play import CHECKS, NotServedError, check_service
from sidecar.cli.conformance.service.predictor import CHECKS as PREDICTOR_CHECKS
from sidecar.cli.conformance.service.scheduler import CHECKS as SCHEDULER_CHECKS
from tests import artefacts
from tests.conformance.yes_services import yes_services
from tests.conftest import Valkey
from tests.integration.predictor_client import service
from tests.integration.scheduler_engine import running_scheduler_at
from tests.patience import PATIENCE_S

LIMITS = Limits(max_rows=50, max_requests=60)
SHORT_S = 3.0


@pytest.fixture
async def predictor(tmp_path: Path, valkey: Valkey) -> AsyncIterator[str]:
    artefacts.make(tmp_path / "tiny")
    limits = {"max_rows_per_step": LIMITS.max_rows, "max_requests_per_engine": LIMITS.max_requests}
    async with service(tmp_path, valkey.url, **limits) as address:
        yield address


@pytest.fixture
async def scheduler(valkey: Valkey) -> AsyncIterator[str]:
    limits = {"max_rows_per_step": LIMITS.max_rows, "max_requests_per_engine": LIMITS.max_requests}
    # Nobody predicts here: plans live from the arrivals of requests, for as long as a stall may take.
    async with running_scheduler_at(valkey, plan_ttl_ms=600_000, **limits) as address:
        yield address


async def test_the_predictor_service_passes(predictor: str) -> None:
    verdicts = await check_service(predictor, PATIENCE_S, LIMITS)
    assert {verdict.check for verdict in verdicts} == set(PREDICTOR_CHECKS)
    assert [verdict for verdict in verdicts if not verdict.passed] == []


async def test_the_scheduler_service_passes(scheduler: str) -> None:
    verdicts = await check_service(scheduler, PATIENCE_S, LIMITS)
    assert {verdict.check for verdict in verdicts} == set(SCHEDULER_CHECKS)
    assert [verdict for verdict in verdicts if not verdict.passed] == []


async def test_services_that_say_yes_to_everything_pass_no_check() -> None:
    async with yes_services() as address:
        verdicts = await check_service(address, SHORT_S / 10, LIMITS)
    assert {verdict.check for verdict in verdicts} == set(CHECKS)
    assert [verdict.check for verdict in verdicts if verdict.passed] == []


async def test_a_target_that_serves_neither_is_named_as_such(valkey: Valkey) -> None:
    with pytest.raises(NotServedError, match="UNAVAILABLE"):
        await check_service("127.0.0.1:1", PATIENCE_S, LIMITS)


def test_the_command_prints_what_was_found_as_json() -> None:
    command = [sys.executable, "-m", "sidecar.cli.main", "conformance", "--json", "--only", "ends", "adapter"]
    ran = subprocess.run(
        [*command, "--", sys.executable, "-m", "tests.conformance.wrong_adapters", "HandleZero"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = json.loads(ran.stdout)
    assert ran.returncode == 1
    assert not found["passed"]
    assert [check["seen"] for check in found["checks"] if check["check"] == "handles"] != [""]


def _applies_old_steps(session: Any, step: Any, apply: Callable[..., Any] = EngineSession.apply) -> Any:
    session._last_step = 0
    return apply(session, step)


def _applies_old_deltas(state: Any, delta: Any, apply: Callable[..., Any] = EngineState.apply) -> Any:
    state.step = -1
    return apply(state, delta)


def _nothing(*_: Any) -> None:
    return None


@pytest.mark.parametrize(
    ("check", "says", "changes"),
    [
        ("predictor-repeats", "were answered", [(EngineSession, "apply", _applies_old_steps)]),
        ("predictor-takeover", "the stream goes on", [(Stream, "end", _nothing), (Engine, "_check_holds", _nothing)]),
        ("predictor-bad-step", "step.decodes.last.data", [(wire, "_check_vectors", _nothing)]),
        ("predictor-too-many-requests", "none", [(errors, "PUSHBACK_KEY", "retry")]),
        ("predictor-bad-open", "it answered `opened`", [(wire, "check_layout", _nothing)]),
    ],
)
async def test_a_wrong_predictor_fails_with_what_is_wrong(
    check: str, says: str, changes: list[Any], predictor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _fails(predictor, check, says, changes, monkeypatch)


@pytest.mark.parametrize(
    ("check", "says", "changes"),
    [
        ("scheduler-repeats", "[3, 7, 8]", [(EngineState, "apply", _applies_old_deltas)]),
        ("scheduler-takeover", "the stream goes on", [(Sessions, "_fence", _nothing)]),
        ("scheduler-ends", "[1, 2, 3]", [(EngineState, "_finish", _nothing)]),
        ("scheduler-too-many-requests", "none", [(errors, "PUSHBACK_KEY", "retry")]),
    ],
)
async def test_a_wrong_scheduler_fails_with_what_is_wrong(
    check: str, says: str, changes: list[Any], scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _fails(scheduler, check, says, changes, monkeypatch)


async def _fails(address: str, check: str, says: str, changes: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, name, value in changes:
        monkeypatch.setattr(owner, name, value)
    verdict = (await check_service(address, SHORT_S, LIMITS, [check]))[0]
    assert not verdict.passed
    assert says in verdict.seen
