"""Writes how requests ended, beside what was predicted for them, to the engine's stream in the store."""

from __future__ import annotations

import asyncio
import contextlib
import time

import structlog
from redis.asyncio import Redis

from scheduler_service import metrics
from scheduler_service.choice import PolicyChoice
from scheduler_service.messages import Finished
from sidecar.redis import STORE_ERRORS, keys

_QUEUE_MAX = 4096
_BATCH_MAX = 256
KEPT_S = 90 * 24 * 3600
"""Since an engine's newest outcome."""

Entry = dict[str, str | int | float]


class OutcomeLog:
    """Takes outcomes without waiting; `run` writes them. A lost one costs a row of statistics, no more."""

    def __init__(self, redis: Redis, max_entries: int) -> None:
        self._redis = redis
        self._max_entries = max_entries
        self._queue: asyncio.Queue[tuple[str, Entry]] = asyncio.Queue(_QUEUE_MAX)
        self._log = structlog.get_logger("outcomes")

    def add(self, engine_id: str, finished: Finished, choice: PolicyChoice, arm: str = "") -> None:
        """Note an outcome, of an experiment's arm or of none; dropped and counted where the store cannot keep up."""
        if not self._max_entries:
            return
        try:
            self._queue.put_nowait((keys(engine_id).outcomes, entry(finished, choice, arm)))
        except asyncio.QueueFull:
            metrics.OUTCOMES.labels("dropped").inc()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            batch = [await self._queue.get()]
            while len(batch) < _BATCH_MAX and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            await self._write(batch)
            for _ in batch:
                self._queue.task_done()

    async def flush(self, timeout_s: float) -> None:
        """Wait until all that was added is written, or the time is up."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._queue.join(), timeout_s)

    async def _write(self, batch: list[tuple[str, Entry]]) -> None:
        try:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for key, fields in batch:
                    pipeline.xadd(key, fields, maxlen=self._max_entries, approximate=True)  # type: ignore[arg-type]
                for key in {key for key, _ in batch}:
                    pipeline.expire(key, KEPT_S)
                await pipeline.execute()
        except STORE_ERRORS as error:
            metrics.OUTCOMES.labels("failed").inc(len(batch))
            self._log.warning("outcomes not written", outcomes=len(batch), reason=str(error))
        else:
            metrics.OUTCOMES.labels("written").inc(len(batch))


def entry(finished: Finished, choice: PolicyChoice, arm: str = "") -> Entry:
    """Fields of one stream entry: readable without this code. Lengths in tokens, times in seconds."""
    request, outcome = finished.request, finished.outcome
    return {
        "request_id": request.request_id,
        "handle": request.handle,
        "tenant": request.tenant,
        "prompt_tokens": request.prompt_tokens,
        "arrival_s": request.arrival_s,
        "recorded_s": round(time.time(), 3),
        "policy": choice.policy,
        "predictor": choice.predictor,
        "arm": arm,
        "reason": outcome.reason,
        "output_tokens": outcome.output_tokens,
        "latency_s": outcome.latency_s,
        "time_to_first_token_s": outcome.time_to_first_token_s,
        "preemptions": outcome.preemptions,
        "recomputed_tokens": outcome.recomputed_tokens,
        "r0": finished.r0,
        "r1": finished.r1,
        "mean": finished.mean,
        "predicted_at_age": finished.predicted_at_age,
    }
