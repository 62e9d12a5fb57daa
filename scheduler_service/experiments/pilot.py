"""What the newest outcomes tell before an experiment starts: how long requests live, and how much blocks differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from redis.asyncio import Redis

from scheduler_service.experiments.analysis.pairs import Floats
from scheduler_service.experiments.blocks import figures_of
from scheduler_service.experiments.design import Design
from scheduler_service.experiments.figures import FIGURES
from scheduler_service.experiments.tally import Tally
from scheduler_service.experiments.timeline import Timeline
from scheduler_service.messages import Outcome
from sidecar.redis import keys

NEWEST = 50_000
PAGE = 1000
LEAST_REQUESTS = 200
LEAST_PAIRS = 8


@dataclass(frozen=True, slots=True)
class Ended:
    """A request that ended: when (seconds), and how."""

    at_s: float
    outcome: Outcome


class Pilot:
    """The newest outcomes of some engines."""

    def __init__(self, engines: Mapping[str, Sequence[Ended]]) -> None:
        self._engines = engines

    @classmethod
    async def read(cls, redis: Redis, engines: Iterable[str]) -> Pilot:
        """Raises RedisError, OSError and TimeoutError."""
        found = {}
        for engine_id in engines:
            newest: list[Ended] = []
            before = "+"
            while len(newest) < NEWEST:
                entries: Any = await redis.xrevrange(keys(engine_id).outcomes, max=before, count=PAGE)
                read = (_ended(fields) for _, fields in entries)
                newest += [each for each in read if each is not None]
                if len(entries) < PAGE:
                    break
                before = f"({entries[-1][0].decode()}"
            found[engine_id] = newest[::-1]
        return cls(found)

    @property
    def requests(self) -> int:
        """Those that came to their own end."""
        return len(self._lifetimes_s())

    @property
    def p99_lifetime_s(self) -> float | None:
        """None where there are too few to tell."""
        lifetimes = self._lifetimes_s()
        return float(np.quantile(lifetimes, 0.99)) if len(lifetimes) >= LEAST_REQUESTS else None

    def noise(self, design: Design) -> Floats | None:
        """[M] differences of neighbouring blocks of one engine by the design's figure; None: too few to tell."""
        found: list[float] = []
        figure = FIGURES[design.figure]
        for ended in self._engines.values():
            values = [each.get(figure.name) for each in _blocks(ended, design)]
            for one, other in zip(values[::2], values[1::2], strict=False):
                difference = None if one is None or other is None else figure.difference(one, other)
                if difference is not None:
                    found.append(difference)
        return np.array(found) if len(found) >= LEAST_PAIRS else None

    def _lifetimes_s(self) -> list[float]:
        ended = (each.outcome for engine in self._engines.values() for each in engine)
        return [outcome.latency_s for outcome in ended if outcome.whole]


def _blocks(ended: Sequence[Ended], design: Design) -> list[dict[str, float]]:
    """As an experiment would have counted them."""
    if not ended:
        return []
    start_s = ended[0].at_s - ended[0].outcome.latency_s
    blocks = int((ended[-1].at_s - start_s) // design.block_s)
    whole = design.model_copy(update={"groups": -(-blocks // len(design.live_arms))})
    timeline, tallies = Timeline(whole, start_s), [Tally() for _ in range(whole.blocks)]
    for each in ended:
        block = timeline.counted_in(each.at_s - each.outcome.latency_s)
        if block is not None:
            tallies[block].add(each.outcome)
        ended_in = timeline.counted_in(each.at_s)
        if ended_in is not None:
            tallies[ended_in].finished_tokens += each.outcome.output_tokens
    return [figures_of(tally, timeline.measured_s) for tally in tallies[:blocks]]


def _ended(fields: Mapping[bytes, bytes]) -> Ended | None:
    """None for an entry that is not one of ours."""
    try:
        outcome = Outcome(
            0,
            fields[b"reason"].decode(),
            int(fields[b"output_tokens"]),
            float(fields[b"latency_s"]),
            float(fields[b"time_to_first_token_s"]),
            int(fields[b"preemptions"]),
            int(fields[b"recomputed_tokens"]),
        )
        return Ended(float(fields[b"recorded_s"]), outcome)
    except (KeyError, ValueError):
        return None
