"""An engine's side of the contract, one message and its answer at a time."""

import contextlib
import secrets
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import grpc

from predictor_service.evaluation.recorded import Recorded, Turn
from predictor_service.training.labels import Ints
from sidecar import vectors
from sidecar.dial import DialError, dialled
from trail.v1 import engine_pb2, predictor_pb2, predictor_pb2_grpc

DTYPE = engine_pb2.DTYPE_FLOAT16


class ReplayError(RuntimeError):
    """The service did not answer as it should; the text says what it said."""


@contextlib.contextmanager
def connected(address: str) -> Iterator[predictor_pb2_grpc.PredictorServiceStub]:
    """A stub whose failures inside the block become ReplayError."""
    try:
        with dialled(address) as channel:
            yield predictor_pb2_grpc.PredictorServiceStub(channel)
    except grpc.RpcError as error:
        raise ReplayError(f"predictor service at {address}: {error.details()}") from None
    except DialError as error:
        raise ReplayError(f"predictor service at {address}: {error}") from None


class EngineStream:
    """One StreamPredict call that ships ``recorded``. The handle of request i is i + 1 and its id is i in decimal."""

    def __init__(
        self, stub: predictor_pb2_grpc.PredictorServiceStub, engine_id: str, model: str, recorded: Recorded
    ) -> None:
        self._recorded = recorded
        self._epoch = engine_pb2.Epoch(incarnation=secrets.randbits(63) + 1, counter=1)
        self._steps = 0
        self._outgoing: SimpleQueue[Any] = SimpleQueue()
        self._answers = stub.StreamPredict(iter(self._outgoing.get, None))
        layout = {"model": model, "dtype": DTYPE, "dim": recorded.hidden.shape[1]}
        opening = predictor_pb2.OpenPredict(engine_id=engine_id, epoch=self._epoch, **layout)
        self.bins = len(self._ask(open=opening).opened.model.bin_edges)

    def __enter__(self) -> "EngineStream":
        return self

    def __exit__(self, *exception: object) -> None:
        self._outgoing.put(None)
        self._answers.cancel()

    def step(self, turn: Turn) -> predictor_pb2.StepPredictions:
        """Ships one step. Raises ReplayError where a row is refused."""
        self._steps += 1
        prefilled, decoded = turn.shipped[turn.ages == 0], turn.shipped[turn.ages > 0]
        ages = turn.ages[turn.ages > 0]
        message = predictor_pb2.PredictStep(
            epoch=self._epoch,
            step=self._steps,
            declared=[self._declaration(request) for request in turn.joined.tolist()],
            prompts=predictor_pb2.PromptRows(handles=prefilled + 1, last=self._vectors(prefilled, 0)),
            decodes=predictor_pb2.DecodeRows(handles=decoded + 1, ages=ages, last=self._vectors(decoded, ages)),
            finished=turn.left + 1,
        )
        return checked(self._ask(step=message).predictions)

    def _declaration(self, request: int) -> engine_pb2.RequestDeclaration:
        ids = self._recorded.prompts[request].tolist()
        return engine_pb2.RequestDeclaration(
            handle=request + 1,
            request_id=str(request),
            prompt_token_ids=ids,
            prompt_tokens=len(ids),
            max_tokens=self._recorded.max_tokens,
        )

    def _vectors(self, requests: Ints, ages: Ints | int) -> engine_pb2.Vectors:
        return vectors.pack(self._recorded.hidden[self._recorded.start[requests] + ages], DTYPE)

    def _ask(self, **message: Any) -> predictor_pb2.StreamPredictResponse:
        self._outgoing.put(predictor_pb2.StreamPredictRequest(**message))
        answer: predictor_pb2.StreamPredictResponse = next(self._answers)
        return answer


def checked(answer: predictor_pb2.StepPredictions) -> predictor_pb2.StepPredictions:
    """The answer, where it is whole. Raises ReplayError."""
    if answer.errors:
        worst = answer.errors[0]
        raise ReplayError(f"the predictor service refused {len(answer.errors)} rows, first: {worst.message}")
    if answer.degraded:
        raise ReplayError("the predictor service lost its store")
    return answer
