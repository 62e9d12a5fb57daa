"""One engine step, from message to answer, in the real service: gRPC stream, model, posterior, store."""

import asyncio
import itertools
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np

from benchmarks.timing import Budget
from sidecar import vectors
from sidecar.cli.stack import running_stack
from sidecar.dial import Credentials
from trail.v1 import engine_pb2, predictor_pb2, predictor_pb2_grpc

PLAIN = Credentials()
WARM_UP_STEPS = 5
PROMPT_TOKENS = 32
ANSWER_TIMEOUT_S = 20.0
STORE_TIMEOUT_MS = 10_000
EPOCH = engine_pb2.Epoch(incarnation=1, counter=1)
FLOAT16 = engine_pb2.DTYPE_FLOAT16


@contextmanager
def service(models: Path, log: Path) -> Iterator[str]:
    """The address of a predictor that runs as `trail up` starts it, with an embedded store.

    But it is patient with the store: a step that a busy machine holds up counts too.
    """
    os.environ["TRAIL_PREDICTOR_REDIS_TIMEOUT_MS"] = str(STORE_TIMEOUT_MS)
    predictor_port, scheduler_port = free_ports(2)
    with running_stack("127.0.0.1", predictor_port, scheduler_port, model_dir=models, log_file=log) as stack:
        yield stack.predictor


async def step_times(
    address: str,
    model: str,
    *,
    dim: int,
    rows: int,
    budget: Budget,
    seed: int = 0,
    engine: str = "",
    credentials: Credentials = PLAIN,
) -> list[float]:
    """Microseconds from writing a message of `rows` decode rows to having read its answer, one at a time.

    `engine` is the name to give, by default one of model and rows. Raises RuntimeError where a row was not answered, or
    not stored.
    """
    hidden = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float16)
    packed = vectors.pack(hidden, FLOAT16)
    async with credentials.aio_channel(address) as channel:
        call = predictor_pb2_grpc.PredictorServiceStub(channel).StreamPredict(metadata=credentials.metadata())
        await _exchange(call, predictor_pb2.StreamPredictRequest(open=opening(model, dim, rows, engine)))
        numbers = itertools.count(1)

        async def one() -> float:
            message = step_message(next(numbers), packed)
            begun = time.perf_counter()
            answer = await _exchange(call, message)
            took = time.perf_counter() - begun
            _check(answer.predictions, rows)
            return took * 1e6

        for _ in range(WARM_UP_STEPS):
            await one()
        times = [await one() for _ in budget]
        await call.done_writing()
    return times


async def _exchange(
    call: "grpc.aio.StreamStreamCall[predictor_pb2.StreamPredictRequest, predictor_pb2.StreamPredictResponse]",
    message: predictor_pb2.StreamPredictRequest,
) -> predictor_pb2.StreamPredictResponse:
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        await call.write(message)
        answer = await call.read()
    if not isinstance(answer, predictor_pb2.StreamPredictResponse):
        raise RuntimeError(f"the stream ended: {await call.details()}")
    return answer


def opening(model: str, dim: int, rows: int, engine: str = "") -> predictor_pb2.OpenPredict:
    """The first message of a stream: `rows` requests that have just arrived."""
    tokens = range(1, PROMPT_TOKENS + 1)
    requests = [
        engine_pb2.RequestDeclaration(handle=handle, request_id=f"request-{handle}", prompt_token_ids=tokens)
        for handle in range(1, rows + 1)
    ]
    return predictor_pb2.OpenPredict(
        engine_id=engine or f"{model}-{rows}", epoch=EPOCH, model=model, dtype=FLOAT16, dim=dim, requests=requests
    )


def step_message(number: int, packed: engine_pb2.Vectors) -> predictor_pb2.StreamPredictRequest:
    """Step `number`, in which every request has one more token."""
    rows = packed.rows
    decodes = predictor_pb2.DecodeRows(handles=range(1, rows + 1), ages=[number] * rows, last=packed)
    step = predictor_pb2.PredictStep(epoch=EPOCH, step=number, decodes=decodes)
    return predictor_pb2.StreamPredictRequest(step=step)


def _check(predictions: predictor_pb2.StepPredictions, rows: int) -> None:
    if len(predictions.handles) != rows or predictions.errors:
        raise RuntimeError(f"{len(predictions.handles)} of {rows} rows answered: {predictions.errors[:1]}")
    if predictions.degraded:
        raise RuntimeError("the step was not stored")


def free_ports(count: int) -> list[int]:
    """TCP ports of this machine on which nobody listens now."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
