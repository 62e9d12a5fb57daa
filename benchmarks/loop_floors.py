"""What the hops of the loop cannot go below: the same bytes copied, carried, multiplied and stored, no more."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from benchmarks.engine_loop import LoopEngine
from benchmarks.served_step import EPOCH, FLOAT16, STORE_TIMEOUT_MS, free_ports, opening, step_message
from benchmarks.timing import Budget, call_times
from engine_adapter.paths import ROW_RING_BYTES, engine_paths
from engine_adapter.ring import RingConsumer
from predictor_service import artefact as artefacts
from predictor_service import wire
from predictor_service.classifier import Classifier
from predictor_service.session import EngineSession
from predictor_service.store import Store
from sidecar import redis, vectors
from sidecar.cli.stack import embedded_valkey
from trail.v1 import predictor_pb2

BUDGET = Budget(0.5, 20, 200)
METHOD = "/trail.Floor/Exchange"


async def measure(model: Path, rows: int, folder: Path, *, projection: str = "") -> dict[str, float]:
    """Median milliseconds by hop, for a step of `rows` rows of the artefact `model`, projected where that is said."""
    artefact = artefacts.load(model)
    classify: Classifier = artefact.reader(projection)
    dim = classify.dim
    hidden = np.random.default_rng(0).standard_normal((rows, dim)).astype(np.float16)
    message = step_message(1, vectors.pack(hidden, FLOAT16))
    session = EngineSession(artefact, max_requests=rows)
    session.open(wire.declarations(opening(model.name, dim, rows).requests, field="open.requests"), {})
    applied = session.apply(wire.step(message.step, dim=dim, max_rows=rows, projection=projection))
    answer = predictor_pb2.StreamPredictResponse(predictions=wire.predictions(applied.predictions, EPOCH))
    sent, answered = message.SerializeToString(), answer.SerializeToString()
    ages = np.ones(rows)
    return {
        "ring": _median_ms(call_times(_ring(folder, rows, dim), BUDGET)),
        "gRPC": await _grpc_ms(sent, len(answered)),
        "model": _median_ms(call_times(lambda: classify(hidden, ages), BUDGET)),
        "store": await _store_ms(rows, answered),
    }


def _ring(folder: Path, rows: int, dim: int) -> Callable[[], object]:
    """One step's rows written and read."""
    paths = engine_paths(f"floor-{dim}-{rows}", folder)
    engine, consumer = LoopEngine(paths, rows, dim), RingConsumer(paths.rows, ROW_RING_BYTES)

    def once() -> None:
        engine.step()
        consumer.read()

    return once


async def _grpc_ms(sent: bytes, answer_bytes: int) -> float:
    """Bytes to another process and an answer of `answer_bytes` back, on one stream; nobody parses either."""
    (port,) = free_ports(1)
    command = (sys.executable, "-m", "benchmarks.loop_floors", str(port), str(answer_bytes))
    server = await asyncio.create_subprocess_exec(*command)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=_SIZES) as channel:
            await channel.channel_ready()
            call: Any = channel.stream_stream(METHOD)()

            async def once() -> None:
                await call.write(sent)
                await call.read()

            return await _median_of(once)
    finally:
        server.kill()
        await server.wait()


async def _store_ms(rows: int, message: bytes) -> float:
    """A commit of as many records of the same size, made beforehand."""
    records = {f"request-{index}": bytes(180) for index in range(rows)}
    with embedded_valkey() as url:
        async with redis.connect(url, STORE_TIMEOUT_MS) as client:
            store = Store(client, timeout_ms=STORE_TIMEOUT_MS, expire_s=60)
            await store.prepare()
            await store.claim("floor", "1:1", [])
            return await _median_of(lambda: store.commit("floor", "1:1", records, (), message))


async def _median_of(once: Callable[[], Awaitable[None]]) -> float:
    times_us = []
    for _ in BUDGET:
        begun = time.perf_counter()
        await once()
        times_us.append((time.perf_counter() - begun) * 1e6)
    return _median_ms(times_us)


def _median_ms(times_us: list[float]) -> float:
    return round(float(np.median(times_us)) / 1000, 3)


_SIZES = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


async def _answer(port: int, answer: bytes) -> None:
    """Serves METHOD until killed."""

    async def exchange(requests: AsyncIterator[bytes], _: object) -> AsyncIterator[bytes]:
        async for _request in requests:
            yield answer

    server = grpc.aio.server(options=_SIZES)
    service, _, method = METHOD[1:].partition("/")
    handlers: dict[str, Any] = {method: grpc.stream_stream_rpc_method_handler(exchange)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_answer(int(sys.argv[1]), bytes(int(sys.argv[2]))))
