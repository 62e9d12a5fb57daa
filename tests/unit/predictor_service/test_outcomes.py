"""How requests ended, read from a real store and joined with what was predicted."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from predictor_service.artefact import Artefact
from predictor_service.canary import Canary, CanarySettings
from predictor_service.catalogue import Catalogue
from predictor_service.drift import Drift
from predictor_service.following import Follower
from predictor_service.journal import Answered, Journal
from predictor_service.live import Windows
from predictor_service.outcomes_reader import BATCH, Outcome, OutcomeReader
from predictor_service.step import Stage
from predictor_service.verdicts import Verdicts
from sidecar.redis import connect, keys
from tests import artefacts
from tests.conftest import Valkey
from tests.live_outcomes import write_outcomes


@pytest.fixture
async def redis(valkey: Valkey) -> AsyncIterator[Redis]:
    async with connect(valkey.url, 5000) as client:
        yield client


async def test_outcomes_are_read_once_in_order_and_aborts_have_no_length(redis: Redis, valkey: Valkey) -> None:
    reader = OutcomeReader(redis)
    assert await reader.read("e") == []
    write_outcomes(valkey, "e", {1: 10, 2: 20})
    write_outcomes(valkey, "other", {9: 90})
    assert await reader.read("e") == [Outcome(1, "r1", 10), Outcome(2, "r2", 20)]
    write_outcomes(valkey, "e", {3: 30}, reason="abort")
    write_outcomes(valkey, "e", {4: 40}, reason="length")
    assert await reader.read("e") == [Outcome(3, "r3", None), Outcome(4, "r4", 40)]
    assert await reader.read("e") == []


async def test_many_outcomes_are_read_in_batches_and_strange_entries_are_passed_over(
    redis: Redis, valkey: Valkey
) -> None:
    with valkey.client() as store:
        store.xadd(keys("e").outcomes, {"what": "is this"})
        store.xadd(keys("e").outcomes, {"reason": "stop", "handle": "x", "request_id": "r", "output_tokens": 1})
    lengths = {handle: handle for handle in range(1, 2 * BATCH + 1)}
    write_outcomes(valkey, "e", lengths)
    assert [outcome.output_tokens for outcome in await OutcomeReader(redis).read("e")] == list(lengths)


def refined(artefact: Artefact, journal: Journal, age: int, *handles: int, finished: int) -> None:
    """A decode step of these requests, each predicted to have 10 tokens left; one request ends."""
    stages, lengths = [int(Stage.DECODE)] * len(handles), [10.0] * len(handles)
    answered = Answered(handles, [age] * len(handles), stages, lengths, lengths, lengths)
    journal.stepped("e", artefact, [], answered, [finished])


async def test_of_a_replaced_artefact_nothing_more_is_judged(redis: Redis, valkey: Valkey, tmp_path: Path) -> None:
    artefacts.make(tmp_path / "m", name="m")
    catalogue, windows = Catalogue([tmp_path]), Windows(100)
    catalogue.refresh()
    old, journal = catalogue.get("m"), Journal(most_engines=2)
    journal.opened("e", old, [(1, "r1"), (2, "r2")])
    canary = Canary(CanarySettings(), catalogue, windows, Verdicts(redis))
    follower = Follower(catalogue, journal, OutcomeReader(redis), windows, Drift(windows), canary)
    refined(old, journal, 5, 1, 2, finished=1)
    artefacts.make(tmp_path / "m", name="m", seed=1)
    catalogue.refresh()
    new = catalogue.get("m")
    refined(new, journal, 7, 2, finished=2)
    write_outcomes(valkey, "e", {2: 14, 1: 10})
    await follower.look()
    assert windows.artefacts == [new]
    assert [judged.truth for judged in windows.judged(new)] == [7.0]
