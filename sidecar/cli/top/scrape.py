"""Asks metrics endpoints; one that does not answer costs the others nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx

from sidecar.cli.top.samples import Interval, Samples

TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Fault:
    """An address without an answer, and why."""

    address: str
    reason: str


class Scraper:
    """Keeps the last answer of each address, so that the next one tells of the time in between. Usable as a context."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = list(dict.fromkeys(addresses))
        self._last: dict[str, Samples] = {}
        self._client = httpx.Client(timeout=TIMEOUT_S, trust_env=False)
        self._pool = ThreadPoolExecutor(max_workers=min(len(self._addresses), 16))

    def __enter__(self) -> Scraper:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown()
        self._client.close()

    def scrape(self) -> tuple[dict[str, Interval], list[Fault]]:
        """Asks all at once."""
        answered: dict[str, Interval] = {}
        faults: list[Fault] = []
        for address, answer in zip(self._addresses, self._pool.map(self._ask, self._addresses), strict=True):
            before = self._last.pop(address, None)
            if isinstance(answer, Fault):
                faults.append(answer)
            else:
                answered[address], self._last[address] = Interval(before, answer), answer
        return answered, faults

    def _ask(self, address: str) -> Samples | Fault:
        try:
            answer = self._client.get(_url(address)).raise_for_status()
            return Samples(answer.text, time.monotonic())
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError) as error:
            return Fault(address, _reason(error))


def _url(address: str) -> str:
    return address if "://" in address else f"http://{address}/metrics"


def _reason(error: Exception) -> str:
    match error:
        case httpx.ConnectError():
            return "nobody listens there"
        case httpx.TimeoutException():
            return f"no answer within {TIMEOUT_S:g} s"
        case httpx.HTTPStatusError():
            return f"HTTP {error.response.status_code}"
        case httpx.HTTPError() | httpx.InvalidURL():
            return str(error)
        case _:
            return "what it serves is no metrics"
