"""Where a step's time goes inside the service: the parts of it, one after the other, in this process."""

import itertools
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.served_step import EPOCH, STORE_TIMEOUT_MS, opening, step_message
from benchmarks.timing import WARM_UP, Budget
from predictor_service import artefact as artefacts
from predictor_service import wire
from predictor_service.availability import Availability
from predictor_service.session import EngineSession
from predictor_service.store import Store
from predictor_service.writer import Writer
from sidecar import redis, vectors
from sidecar.health import Health
from trail.v1 import engine_pb2, predictor_pb2

MODEL, SESSION, READ, COMMIT, ANSWER = "model", "session", "read", "commit", "answer"


@dataclass
class Clock:
    """CPU microseconds of this thread, by part: waiting for the store, or for a core, does not count."""

    times_us: dict[str, list[float]] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        begun = time.thread_time()
        yield
        self.times_us.setdefault(name, []).append((time.thread_time() - begun) * 1e6)


async def part_times(
    folder: Path, redis_url: str, rows: int, budget: Budget, seed: int = 0
) -> Mapping[str, list[float]]:
    """CPU microseconds of each part of steps with `rows` decode rows, by part:

    `read` the message into arrays, `model`, the rest of the `session` (selection, posterior, records), `commit`
    (records and predictions packed, and what the store's client does), `answer` as bytes. Raises RuntimeError where a
    step could not be stored.
    """
    clock, artefact = Clock(), artefacts.load(folder)
    dim = artefact.manifest.dim
    hidden = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float16)
    packed = vectors.pack(hidden, engine_pb2.DTYPE_FLOAT16)
    classify = artefact.classifier

    def timed(*arguments: Any) -> Any:
        with clock.part(MODEL):
            return classify(*arguments)

    session = EngineSession(replace(artefact, classifier=timed), max_requests=rows)  # type: ignore[arg-type]
    session.open(wire.declarations(opening(artefact.name, dim, rows).requests, field="open.requests"), {})
    async with redis.connect(redis_url, STORE_TIMEOUT_MS) as client:
        store = Store(client, timeout_ms=STORE_TIMEOUT_MS, expire_s=60)
        availability = Availability(store, Health("store"), lambda: None)
        await availability.attempt()
        writer = Writer(store, availability, "parts", EPOCH)
        await writer.claim([])
        numbers = itertools.count(1)

        async def one() -> None:
            sent = step_message(next(numbers), packed).SerializeToString()
            with clock.part(READ):
                message = predictor_pb2.StreamPredictRequest.FromString(sent)
                step = wire.step(message.step, dim=dim, max_rows=rows)
            with clock.part(SESSION):
                applied = session.apply(step)
            with clock.part(COMMIT):
                predictions = await writer.commit(applied)
            with clock.part(ANSWER):
                predictor_pb2.StreamPredictResponse(predictions=predictions).SerializeToString()
            if predictions.degraded:
                raise RuntimeError("the step was not stored")

        for _ in WARM_UP:
            await one()
        clock.times_us.clear()
        for _ in budget:
            await one()
    pairs = zip(clock.times_us[SESSION], clock.times_us[MODEL], strict=True)
    return clock.times_us | {SESSION: [whole - model for whole, model in pairs]}
