"""The view of a whole state that came in one message, with its predictions."""

from __future__ import annotations

import math

import numpy as np

from scheduler_service import wire
from scheduler_service.messages import Declaration, Delta, Epoch, Predictions, PublishedMessage, Running
from scheduler_service.settings import SchedulerSettings
from scheduler_service.state import EngineState
from scheduler_service.view import EngineView, Floats
from sidecar.errors import InvalidField
from trail.v1 import scheduler_pb2

_DECODE = 3
_EPOCH = Epoch(1, 0)


def view_of(request: scheduler_pb2.PlanRequest, settings: SchedulerSettings) -> EngineView:
    """Raises InvalidField. Running requests are taken to have the KV entries of all their tokens."""
    named, limit = len(request.waiting) + len(request.running), settings.max_requests_per_engine
    if named > limit:
        raise InvalidField("waiting or running", f"{named} requests are too many", limit=limit)
    requests = wire.declarations([*request.waiting, *request.running], "waiting or running")
    running = requests[len(request.waiting) :]
    capacity = wire.capacity(request.capacity)
    state = EngineState(capacity, settings.assumptions)
    held = sum(-(-_computed(each) // capacity.kv_block_tokens) for each in running) if capacity.kv_block_tokens else 0
    state.apply(
        Delta(
            epoch=_EPOCH,
            step=1,
            arrived=requests,
            running=Running(
                np.array([each.handle for each in running], dtype=np.uint64),
                np.array([each.age for each in running], dtype=np.int64),
                np.array([_computed(each) for each in running], dtype=np.int64),
            ),
            free_kv_blocks=max(capacity.kv_blocks - held, 0),
        )
    )
    state.apply_predictions(_predictions(request, requests))
    return state.view()


def _computed(request: Declaration) -> int:
    return max(request.prompt_tokens + request.age - 1, 0)


def _predictions(request: scheduler_pb2.PlanRequest, requests: tuple[Declaration, ...]) -> PublishedMessage:
    ages = np.array([each.age for each in requests], dtype=np.int64)
    remaining = _lengths(request.remaining_tokens, "remaining_tokens", len(requests))
    total = remaining + ages
    if request.initial_tokens:
        total = _lengths(request.initial_tokens, "initial_tokens", len(requests))
    return PublishedMessage(
        _EPOCH,
        1,
        np.array([each.handle for each in requests], dtype=np.uint64),
        Predictions(ages, np.full(ages.size, _DECODE), remaining, remaining, remaining, remaining, total, total),
    )


def _lengths(values: object, field: str, expected: int) -> Floats:
    lengths = list(values)  # type: ignore[call-overload]
    if len(lengths) != expected:
        raise InvalidField(field, f"has {len(lengths)} entries for {expected} requests")
    if not all(math.isfinite(length) and length >= 0 for length in lengths):
        raise InvalidField(field, "must be finite and 0 or more")
    return np.array(lengths, dtype=np.float64)
