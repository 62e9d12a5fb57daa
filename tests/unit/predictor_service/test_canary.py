"""When a canary serves, and when it is found to be worse."""

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from redis.asyncio import Redis

from predictor_service.canary import Canary, CanarySettings, in_share, worse_than
from predictor_service.catalogue import Catalogue
from predictor_service.live import Judged, Windows
from predictor_service.verdicts import Verdicts
from sidecar.redis import connect
from tests import artefacts
from tests.conftest import Valkey

SETTINGS = CanarySettings("next", share=0.5, requests=50)
TRIED = next(engine_id for engine_id in map(str, range(99)) if in_share(engine_id, "next", 0.5))
BESIDE = next(engine_id for engine_id in map(str, range(99)) if not in_share(engine_id, "next", 0.5))


def judged(requests: int, seed: int, *, scale: float = 1.0, coverage: float = 0.8) -> list[Judged]:
    """Errors as live ones are: skewed, most of them small."""
    rng = np.random.default_rng(seed)
    errors = scale * rng.lognormal(4.0, 1.0, requests)
    covered = rng.random((requests, 4)) < coverage
    return [Judged(error, float(inside.mean()), 0.0, 0.0) for error, inside in zip(errors, covered, strict=True)]


def times_sent_back(trials: int, **canary: float) -> float:
    rng = np.random.default_rng(0)
    found = [worse_than(judged(200, 2 * i, **canary), judged(200, 2 * i + 1), rng) for i in range(trials)]
    return sum(map(bool, found)) / trials


def test_a_canary_as_good_as_the_stable_artefact_is_seldom_sent_back() -> None:
    assert times_sent_back(300) <= 0.08  # 5 % and three standard errors


def test_a_better_canary_is_never_sent_back() -> None:
    assert times_sent_back(100, scale=0.7) == 0


@pytest.mark.parametrize("worse", [{"scale": 1.6}, {"coverage": 0.65}, {"coverage": 0.95}])
def test_a_clearly_worse_canary_is_nearly_always_sent_back(worse: dict[str, float]) -> None:
    assert times_sent_back(100, **worse) > 0.9


def test_the_reason_names_the_figure_that_is_worse() -> None:
    rng = np.random.default_rng(0)
    assert worse_than(judged(200, 1, scale=3), judged(200, 2), rng).startswith("mae_tokens ")
    assert worse_than(judged(200, 1, coverage=0.4), judged(200, 2), rng).startswith("coverage 0.4")


def test_the_share_is_that_of_many_engines_and_each_stays_where_it_is() -> None:
    engines = [f"engine-{number}" for number in range(5000)]
    tried = [engine_id for engine_id in engines if in_share(engine_id, "next", 0.1)]
    assert len(tried) == pytest.approx(500, abs=65)
    assert tried == [engine_id for engine_id in engines if in_share(engine_id, "next", 0.1)]
    assert set(tried) < {engine_id for engine_id in engines if in_share(engine_id, "next", 0.2)}
    assert set(tried) != {engine_id for engine_id in engines if in_share(engine_id, "another", 0.1)}


@pytest.fixture
async def redis(valkey: Valkey) -> AsyncIterator[Redis]:
    async with connect(valkey.url, 5000) as client:
        yield client


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    artefacts.make(tmp_path / "stable", name="stable")
    artefacts.make(tmp_path / "next", name="next", seed=1)
    catalogue = Catalogue([tmp_path], default="stable")
    catalogue.refresh()
    return catalogue


def canary_of(catalogue: Catalogue, redis: Redis, windows: Windows) -> Canary:
    return Canary(SETTINGS, catalogue, windows, Verdicts(redis), seed=0)


def served(canary: Canary) -> tuple[str, str]:
    """To an engine in the share and to one beside it."""
    return canary.artefact_for(TRIED, "").name, canary.artefact_for(BESIDE, "").name


def finish(windows: Windows, catalogue: Catalogue, name: str, found: list[Judged]) -> None:
    for each in found:
        windows.add(catalogue.get(name), each)


async def test_it_serves_its_share_but_not_before_the_store_was_asked(catalogue: Catalogue, redis: Redis) -> None:
    canary = canary_of(catalogue, redis, Windows(100))
    assert served(canary) == ("stable", "stable")
    await canary.refresh()
    assert served(canary) == ("next", "stable")
    assert canary.artefact_for(TRIED, "stable").name == "stable"
    assert canary.artefact_for(BESIDE, "next").name == "next"


async def test_it_is_judged_once_both_have_outcomes_enough(catalogue: Catalogue, redis: Redis) -> None:
    windows = Windows(100)
    canary = canary_of(catalogue, redis, windows)
    await canary.refresh()
    finish(windows, catalogue, "next", judged(50, 1, scale=9))
    finish(windows, catalogue, "stable", judged(49, 2))
    await canary.judge()
    assert served(canary) == ("next", "stable")
    finish(windows, catalogue, "stable", judged(1, 3))
    await canary.judge()
    assert served(canary) == ("stable", "stable")


async def test_a_canary_that_is_no_worse_serves_on_and_is_not_judged_again(catalogue: Catalogue, redis: Redis) -> None:
    windows = Windows(100)
    canary = canary_of(catalogue, redis, windows)
    await canary.refresh()
    finish(windows, catalogue, "stable", judged(100, 2))
    finish(windows, catalogue, "next", judged(100, 1, scale=0.5))
    await canary.judge()
    finish(windows, catalogue, "next", judged(100, 4, scale=9))
    await canary.judge()
    assert served(canary) == ("next", "stable")


async def test_the_first_verdict_stands_for_replicas_and_restarts(catalogue: Catalogue, redis: Redis) -> None:
    windows = Windows(100)
    first, replica = canary_of(catalogue, redis, windows), canary_of(catalogue, redis, Windows(100))
    await first.refresh()
    await replica.refresh()
    finish(windows, catalogue, "stable", judged(50, 2))
    finish(windows, catalogue, "next", judged(50, 1, scale=9))
    await first.judge()
    assert served(replica) == ("next", "stable")
    await replica.refresh()
    assert served(replica) == ("stable", "stable")
    await Verdicts(redis).write(catalogue.get("next"), catalogue.get("stable"), "")
    restarted = canary_of(catalogue, redis, Windows(100))
    await restarted.refresh()
    assert served(restarted) == ("stable", "stable")


async def test_another_artefact_of_the_name_or_another_stable_one_gets_a_trial_of_its_own(
    catalogue: Catalogue, redis: Redis, tmp_path: Path
) -> None:
    await Verdicts(redis).write(catalogue.get("next"), catalogue.get("stable"), "worse")
    canary = canary_of(catalogue, redis, Windows(100))
    await canary.refresh()
    assert served(canary) == ("stable", "stable")
    artefacts.make(tmp_path / "next", name="next", seed=2)
    catalogue.refresh()
    assert served(canary) == ("stable", "stable")
    await canary.refresh()
    assert served(canary) == ("next", "stable")


async def test_without_the_store_a_canary_that_was_not_cleared_waits_and_one_that_was_serves_on(
    catalogue: Catalogue, redis: Redis, valkey: Valkey
) -> None:
    cleared, waiting = (canary_of(catalogue, redis, Windows(100)) for _ in range(2))
    await cleared.refresh()
    valkey.stop()
    await cleared.refresh()
    await waiting.refresh()
    assert served(cleared) == ("next", "stable")
    assert served(waiting) == ("stable", "stable")
    valkey.restart_empty()
    await waiting.refresh()
    assert served(waiting) == ("next", "stable")


async def test_a_verdict_that_could_not_be_stored_is_reached_again(
    catalogue: Catalogue, redis: Redis, valkey: Valkey
) -> None:
    windows = Windows(100)
    canary = canary_of(catalogue, redis, windows)
    await canary.refresh()
    finish(windows, catalogue, "stable", judged(50, 2))
    finish(windows, catalogue, "next", judged(50, 1, scale=9))
    valkey.stop()
    await canary.judge()
    valkey.restart_empty()
    await canary.judge()
    assert served(canary) == ("stable", "stable")


async def test_a_canary_that_is_missing_or_taps_other_layers_does_not_serve(
    catalogue: Catalogue, redis: Redis, tmp_path: Path
) -> None:
    absent = Canary(CanarySettings("absent", 0.99, 50), catalogue, Windows(100), Verdicts(redis))
    await absent.refresh()
    artefacts.make(tmp_path / "wide", name="wide", layers=(1, 2))
    catalogue.refresh()
    wide = Canary(CanarySettings("wide", 0.99, 50), catalogue, Windows(100), Verdicts(redis))
    await wide.refresh()
    for canary in (absent, wide):
        assert {canary.artefact_for(str(number), "").name for number in range(50)} == {"stable"}
