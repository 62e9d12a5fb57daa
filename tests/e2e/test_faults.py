"""Each part killed while a real vLLM serves: nothing is lost, nothing changes, and the loop comes back by itself."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable

import httpx
import pytest

from sidecar.cli.demo.load import LIMITS, request
from tests.e2e.conftest import GREEDY, PROMPTS, SLOTS
from tests.e2e.parts import Agent, System, statistics, until

pytestmark = pytest.mark.vllm


class Load:
    """Keeps more requests in the engine than it has slots, until told to stop; every answer is kept."""

    def __init__(self, url: str) -> None:
        self.answers: list[tuple[str, tuple[int, ...]]] = []
        self.failures: list[Exception] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(url)))
        self._prompts = itertools.cycle(PROMPTS)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    async def _run(self, url: str) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=300, limits=LIMITS) as client:
            await asyncio.gather(*(self._one_after_the_other(client) for _ in range(3 * SLOTS)))

    async def _one_after_the_other(self, client: httpx.AsyncClient) -> None:
        while not self._stop.is_set():
            prompt = next(self._prompts)
            try:
                sample = await request(client, prompt, 0, GREEDY, {})
                self.answers.append((prompt, sample.token_ids))
            except httpx.HTTPError as failure:
                self.failures.append(failure)


def _counted(name: str) -> Callable[[], int]:
    return lambda: int(statistics()["counters"][name])


@pytest.mark.parametrize("part", ["predictor", "scheduler", "store", "agent"])
def test_a_killed_part_loses_no_request_and_changes_no_token(
    system: System, greedy: dict[str, tuple[int, ...]], part: str
) -> None:
    applied, open_steps = _counted("plans_applied"), _counted("fail_open_steps")
    with Load(system.engine.url) as load:
        before = applied()
        until(lambda: applied() > before + 5, "plans are applied before the fault")
        process, failed_open = statistics()["process_id"], open_steps()
        system.parts[part].kill()
        if isinstance(system.parts[part], Agent):
            until(lambda: statistics()["process_id"] != process, "another agent runs")
            recovered_from = 0
        else:
            until(lambda: open_steps() > failed_open + 5, "the engine is back to its own order")
            system.parts[part].start()
            recovered_from = applied()
        until(lambda: applied() > recovered_from + 5, "plans are applied again")
        time.sleep(1)
    assert load.failures == []
    assert len(load.answers) >= 3 * SLOTS
    assert [prompt for prompt, tokens in load.answers if tokens != greedy[prompt]] == []


def test_all_parts_gone_at_once_is_plain_vllm(system: System, greedy: dict[str, tuple[int, ...]]) -> None:
    applied, open_steps = _counted("plans_applied"), _counted("fail_open_steps")
    names = ("store", "predictor", "scheduler")
    with Load(system.engine.url) as load:
        for name in names:
            system.parts[name].kill()
        failed_open = open_steps()
        until(lambda: open_steps() > failed_open + 20, "the engine serves in its own order")
        for name in names:
            system.parts[name].start()
        recovered_from = applied()
        until(lambda: applied() > recovered_from + 5, "plans are applied again")
    assert load.failures == []
    assert [prompt for prompt, tokens in load.answers if tokens != greedy[prompt]] == []
