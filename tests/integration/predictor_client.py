"""A predictor service on a real port, and an engine's side of its contract."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from predictor_service.main import run
from predictor_service.settings import PredictorSettings
from sidecar import vectors
from tests.patience import PATIENCE_S
from trail.v1 import engine_pb2, predictor_pb2, predictor_pb2_grpc

DIM = 16
FLOAT16 = engine_pb2.DTYPE_FLOAT16


@asynccontextmanager
async def service(models: Path, redis_url: str, **settings: Any) -> AsyncIterator[str]:
    """Runs a predictor service; gives its address."""
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    chosen = {"redis_timeout_ms": 10_000, "drain_timeout_s": 1, "max_queue_ms": 0} | settings
    task = asyncio.create_task(
        run(
            PredictorSettings(port=0, model_dir=[models], redis_url=redis_url, **chosen),
            ready=port.set_result,
        )
    )
    try:
        await asyncio.wait([port, task], timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        yield f"127.0.0.1:{port.result()}"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def declaration(handle: int, **fields: Any) -> engine_pb2.RequestDeclaration:
    defaults: dict[str, Any] = {"request_id": f"r{handle}", "prompt_token_ids": [handle, 5, 7]}
    return engine_pb2.RequestDeclaration(handle=handle, **(defaults | fields))


def hidden(rows: int, seed: int = 0, dim: int = DIM) -> Any:
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float16)


def prompt_rows(handles: Sequence[int], matrix: Any = None) -> predictor_pb2.PromptRows:
    matrix = hidden(len(handles)) if matrix is None else matrix
    return predictor_pb2.PromptRows(handles=handles, last=vectors.pack(matrix, FLOAT16))


def decode_rows(handles: Sequence[int], ages: Sequence[int], matrix: Any = None) -> predictor_pb2.DecodeRows:
    matrix = hidden(len(handles), seed=sum(ages)) if matrix is None else matrix
    return predictor_pb2.DecodeRows(handles=handles, ages=ages, last=vectors.pack(matrix, FLOAT16))


class EngineStream:
    """One StreamPredict call."""

    def __init__(
        self, stub: predictor_pb2_grpc.PredictorServiceStub, engine_id: str, incarnation: int, counter: int
    ) -> None:
        self.engine_id = engine_id
        self.epoch = engine_pb2.Epoch(incarnation=incarnation, counter=counter)
        self.call: Any = stub.StreamPredict()
        self._step = 0

    async def open(self, *requests: engine_pb2.RequestDeclaration, **fields: Any) -> predictor_pb2.PredictOpened:
        chosen = {"dtype": FLOAT16, "dim": DIM, "epoch": self.epoch} | fields
        message = predictor_pb2.OpenPredict(engine_id=self.engine_id, requests=requests, **chosen)
        answer = await self.ask(predictor_pb2.StreamPredictRequest(open=message))
        return answer.opened

    async def step(self, **fields: Any) -> predictor_pb2.StepPredictions:
        self._step = fields.pop("step", self._step + 1)
        message = predictor_pb2.PredictStep(**({"epoch": self.epoch, "step": self._step} | fields))
        answer = await self.ask(predictor_pb2.StreamPredictRequest(step=message))
        return answer.predictions

    async def ask(self, message: predictor_pb2.StreamPredictRequest) -> predictor_pb2.StreamPredictResponse:
        """Raises AioRpcError when the stream has ended."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self.call.write(message)
                answer = await self.call.read()
        except asyncio.InvalidStateError:
            answer = grpc.aio.EOF
        if answer is grpc.aio.EOF:
            raise await self.error()
        return answer

    async def error(self) -> grpc.aio.AioRpcError:
        """The status with which the server ended the stream; waits for it."""
        async with asyncio.timeout(PATIENCE_S):
            code = await self.call.code()
            return grpc.aio.AioRpcError(
                code,
                await self.call.initial_metadata(),
                await self.call.trailing_metadata(),
                await self.call.details(),
            )


class Client:
    """What a test says to one predictor service."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.stub = predictor_pb2_grpc.PredictorServiceStub(channel)

    def stream(self, engine_id: str = "e", incarnation: int = 9, counter: int = 1) -> EngineStream:
        return EngineStream(self.stub, engine_id, incarnation, counter)


@asynccontextmanager
async def client(address: str, *options: tuple[str, int]) -> AsyncIterator[Client]:
    async with grpc.aio.insecure_channel(address, options) as channel:
        yield Client(channel)
