"""Sends responses that are over through a predictor service, as the engine that wrote them would have done."""

import secrets
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from redis import Redis

from predictor_service.evaluation.predicted import Predicted
from predictor_service.evaluation.recorded import Recorded, turns
from predictor_service.evaluation.service import Address
from predictor_service.evaluation.stream import DTYPE, EngineStream, ReplayError, checked, connected
from predictor_service.training.labels import Floats, Ints
from sidecar import vectors
from sidecar.redis import keys
from trail.v1 import engine_pb2, predictor_pb2, state_pb2

ROWS_A_CALL = 1024
LENGTHS = "mean", "median", "p10", "p90"


@dataclass(frozen=True)
class Replayed:
    """What the service said."""

    predicted: Predicted  # every position
    r0_mean: Floats  # [requests] total tokens, before any hidden state
    r0_median: Floats


def replay(
    address: Address,
    model: str,
    recorded: Recorded,
    *,
    slots: int = 256,
    progress: Callable[[int], None] | None = None,
) -> Replayed:
    """Streams all requests through the service, ``slots`` at once, one message a step, and collects its answers.

    Posteriors are read from the store after each step, where its URL is known. ``progress`` is told how many rows each
    step answered.

    Raises:
        ReplayError: the service refused the stream or a row, or left one unanswered.
    """
    engine_id = f"evaluation-{secrets.token_hex(8)}"
    r0 = np.full((2, len(recorded.prompts)), np.nan)
    lengths = np.full((len(LENGTHS), len(recorded.age)), np.nan)
    store = nullcontext() if address.redis_url is None else Redis.from_url(address.redis_url)
    with (
        connected(address.predictor) as stub,
        EngineStream(stub, engine_id, model, recorded) as stream,
        store as client,
    ):
        q = np.full((len(recorded.age), stream.bins), np.nan, dtype=np.float32)
        for turn in turns(recorded.lengths, slots):
            answer = stream.step(turn)
            request, said = np.array(answer.handles, dtype=np.int64) - 1, _lengths(answer)
            by_prompt = np.array(answer.stages) == predictor_pb2.STAGE_PROMPT
            r0[:, request[by_prompt]] = said[:2, by_prompt]
            request, said = request[~by_prompt], said[:, ~by_prompt]
            rows = recorded.start[request] + np.array(answer.ages, dtype=np.int64)[~by_prompt]
            lengths[:, rows] = said
            if client is not None and len(rows):
                q[rows] = _posteriors(client, engine_id, request)
            if progress is not None:
                progress(len(rows))
    if np.isnan(lengths).any() or np.isnan(r0).any():
        raise ReplayError("the predictor service left rows unanswered")
    mean, median, p10, p90 = lengths
    known = q if address.redis_url is not None else None
    predicted = Predicted(recorded.request, recorded.age, recorded.remaining, mean, median, p10, p90, known)
    return Replayed(predicted, *r0)


def unrefined(address: Address, model: str, recorded: Recorded, rows: Ints) -> Predicted:
    """What the classifier alone says of ``rows``: each is the first that the service sees of a request of its own.

    Raises:
        ReplayError: the service refused a row.
    """
    parts = [np.empty((len(LENGTHS), 0))]
    with connected(address.predictor) as stub:
        for first in range(0, len(rows), ROWS_A_CALL):
            step = _bare_step(recorded, rows[first : first + ROWS_A_CALL])
            answer = checked(stub.Predict(predictor_pb2.PredictRequest(model=model, step=step)).predictions)
            parts.append(_lengths(answer)[:, np.argsort(answer.handles)])
    mean, median, p10, p90 = np.concatenate(parts, axis=1)
    return Predicted(recorded.request[rows], recorded.age[rows], recorded.remaining[rows], mean, median, p10, p90)


def _bare_step(recorded: Recorded, rows: Ints) -> predictor_pb2.PredictStep:
    """A request a row, declared at the row's age, for the cap that it carries."""
    ages = recorded.age[rows].tolist()
    handles = range(1, len(rows) + 1)
    declared = [
        engine_pb2.RequestDeclaration(
            handle=handle, request_id=str(handle), age_tokens=age, max_tokens=recorded.max_tokens
        )
        for handle, age in zip(handles, ages, strict=True)
    ]
    last = vectors.pack(recorded.hidden[rows], DTYPE)
    decodes = predictor_pb2.DecodeRows(handles=handles, ages=ages, last=last)
    return predictor_pb2.PredictStep(step=1, declared=declared, decodes=decodes)


def _lengths(answer: predictor_pb2.StepPredictions) -> Floats:
    """[4, entries] tokens, in the order of `LENGTHS`."""
    return np.array([getattr(answer, name) for name in LENGTHS], dtype=np.float64)


def _posteriors(store: Redis, engine_id: str, requests: Ints) -> list[Sequence[float]]:
    """Posterior [bins] of each request as the last step left it."""
    found: list[Any] = store.hmget(keys(engine_id).posterior, [str(request) for request in requests.tolist()])
    if None in found:
        raise ReplayError("the store lost a posterior")
    return [state_pb2.StoredPosterior.FromString(value).posterior for value in found]
