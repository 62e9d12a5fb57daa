"""The adapter kit passes an adapter that keeps the contract, and says of each wrong one what is wrong."""

import asyncio
import sys
from collections.abc import Mapping

import pytest

from sidecar.cli.conformance.adapter.play import check_adapter
from sidecar.cli.conformance.adapter.rules import RULES
from sidecar.cli.conformance.adapter.scenarios import SCENARIOS
from sidecar.cli.conformance.verdict import Verdict
from tests.conformance.wrong_adapters import WRONG
from tests.patience import PATIENCE_S

SHORT_S, AGAIN_S = 4.0, 40.0
AT_ONCE = 6

pytestmark = pytest.mark.timeout(1800)


def test_every_check_has_an_adapter_that_fails_it() -> None:
    assert {wrong.check for wrong in WRONG.values()} == set(SCENARIOS) | set(RULES)


async def test_an_adapter_that_keeps_the_contract_passes() -> None:
    verdicts = await check_adapter([sys.executable, "-m", "tests.conformance.small_adapter"], PATIENCE_S)
    assert {verdict.check for verdict in verdicts} == set(SCENARIOS) | set(RULES)
    assert [verdict for verdict in verdicts if not verdict.passed] == []


async def test_our_own_agent_passes() -> None:
    """What of the contract its other tests do not show; `trail conformance adapter -- python -m
    tests.conformance.our_agent` plays everything, which takes half a minute of a core."""
    played = ["backs-off-when-full", "backs-off-when-gone", "reopens", "id-reused", "preempted", "preemption-guard"]
    verdicts = await check_adapter([sys.executable, "-m", "tests.conformance.our_agent"], PATIENCE_S, played)
    assert [verdict for verdict in verdicts if not verdict.passed] == []


async def test_an_adapter_that_does_nothing_passes_nothing() -> None:
    verdicts = await check_adapter([sys.executable, "-c", ""], SHORT_S, ["life"])
    assert [verdict.check for verdict in verdicts if verdict.passed] == []
    assert "it ended with status 0" in verdicts[0].seen


@pytest.fixture(scope="module")
def verdicts() -> Mapping[str, Verdict]:
    """What the check that must fail says of each wrong adapter; most of the time is spent waiting, so some at once."""
    return asyncio.run(_all())


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_adapter_fails_with_what_is_wrong(name: str, verdicts: Mapping[str, Verdict]) -> None:
    verdict = verdicts[name]
    assert not verdict.passed
    assert WRONG[name].says in verdict.seen
    assert verdict.expected


async def _all() -> dict[str, Verdict]:
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(name: str) -> Verdict:
        async with turn:
            return await _verdict(name)

    return dict(zip(WRONG, await asyncio.gather(*map(one, WRONG)), strict=True))


async def _verdict(name: str) -> Verdict:
    """On a machine that stalls, something else may take too long first: then again, with all patience."""
    wrong = WRONG[name]
    command = [sys.executable, "-m", "tests.conformance.wrong_adapters", name]
    for timeout_s in (SHORT_S, AGAIN_S):
        found = await check_adapter(command, timeout_s, [wrong.played])
        verdict = next(verdict for verdict in found if verdict.check == wrong.check)
        if wrong.says in verdict.seen:
            break
    return verdict
