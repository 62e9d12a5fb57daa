"""Protobuf in: checked, and turned into the plain values of `messages`. Mistakes are InvalidField."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

import grpc
import numpy as np

from scheduler_service.messages import Declaration, Delta, Epoch, Open, Outcome, Running
from scheduler_service.view import Capacity, Ints
from sidecar.errors import InvalidField, Refused
from trail.v1 import engine_pb2, scheduler_pb2

_ENGINE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
MAX_REQUEST_ID_BYTES = MAX_TENANT_BYTES = 256
MAX_TOKENS = 10_000_000
ENDED_AT_MOST = 4
"""Times the requests that may live at once: so many may end, or be preempted, in one message."""


def engine_id(value: str, field: str) -> str:
    """An engine's id: it becomes part of key names."""
    if not _ENGINE_ID.fullmatch(value):
        raise InvalidField(field, f"{value[:140]!r} is not 1 to 128 characters of A-Z a-z 0-9 . _ -")
    return value


def epoch(message: engine_pb2.Epoch, field: str) -> Epoch:
    """An epoch; its incarnation is never 0."""
    if message.incarnation == 0:
        raise InvalidField(f"{field}.incarnation", "must not be 0")
    return Epoch(message.incarnation, message.counter)


def opening(message: scheduler_pb2.OpenCoordinate) -> Open:
    """The first message of a stream."""
    return Open(
        engine_id(message.engine_id, "open.engine_id"),
        epoch(message.epoch, "open.epoch"),
        capacity(message.capacity),
        declarations(message.requests, "open.requests"),
    )


def capacity(message: scheduler_pb2.EngineCapacity) -> Capacity:
    """What the engine can hold."""
    return Capacity(message.max_running_requests, message.kv_blocks, message.kv_block_tokens, message.step_token_budget)


def declarations(messages: Sequence[engine_pb2.RequestDeclaration], field: str) -> tuple[Declaration, ...]:
    """Requests, each handle once."""
    _unique((message.handle for message in messages), f"{field}.handle")
    return tuple(_declaration(message, field) for message in messages)


def _declaration(message: engine_pb2.RequestDeclaration, field: str) -> Declaration:
    size = len(message.request_id.encode())
    if not 0 < size <= MAX_REQUEST_ID_BYTES:
        raise InvalidField(f"{field}.request_id", f"has {size} bytes", limit=f"1 to {MAX_REQUEST_ID_BYTES}")
    if (size := len(message.tenant.encode())) > MAX_TENANT_BYTES:
        raise InvalidField(f"{field}.tenant", f"has {size} bytes", limit=MAX_TENANT_BYTES)
    return Declaration(
        handle=message.handle,
        request_id=message.request_id,
        prompt_tokens=message.prompt_tokens or len(message.prompt_token_ids),
        age=message.age_tokens,
        arrival_s=_finite(message.arrival_time_s, f"{field}.arrival_time_s"),
        priority=message.priority,
        tenant=message.tenant,
        deadline_s=_finite(message.deadline_s, f"{field}.deadline_s"),
        declared_output_tokens=message.declared_output_tokens,
    )


def check_counts(named: int, ended: int, most: int, field: str) -> None:
    """Before anything is made of them: a message is not to hold everybody up only to be refused.

    Raises Refused for more requests than may live, and InvalidField for more ends than there can be.
    """
    if named > most:
        text = f"{field}: {named} living requests are too many (limit {most})"
        raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, text, retry_after_ms=1000)
    if ended > ENDED_AT_MOST * most:
        raise InvalidField("delta.finished", f"{ended} are too many", limit=ENDED_AT_MOST * most)


def delta(message: scheduler_pb2.StateDelta, max_rows: int) -> Delta:
    """What one step changed."""
    _unique(message.preempted, "delta.preempted")
    _unique((outcome.handle for outcome in message.finished), "delta.finished.handle")
    return Delta(
        epoch=epoch(message.epoch, "delta.epoch"),
        step=message.step,
        step_duration_s=_finite(message.step_duration_s, "delta.step_duration_s"),
        arrived=declarations(message.arrived, "delta.arrived"),
        running=_running(message.running, max_rows) if message.HasField("running") else None,
        preempted=tuple(message.preempted),
        finished=tuple(_outcome(outcome) for outcome in message.finished),
        free_kv_blocks=message.free_kv_blocks,
        engine_steps=message.engine_steps,
        traceparent=message.traceparent,
    )


def _running(message: scheduler_pb2.RunningRequests, max_rows: int) -> Running:
    rows = len(message.handles)
    if rows > max_rows:
        raise InvalidField("delta.running.handles", f"{rows} rows are too many", limit=max_rows)
    for name, values in (("ages", message.ages), ("computed_tokens", message.computed_tokens)):
        if len(values) != rows:
            raise InvalidField(f"delta.running.{name}", f"has {len(values)} entries for {rows} handles")
    _unique(message.handles, "delta.running.handles")
    return Running(np.array(message.handles, dtype=np.uint64), _ints(message.ages), _ints(message.computed_tokens))


def _outcome(message: scheduler_pb2.Outcome) -> Outcome:
    if message.output_tokens > MAX_TOKENS:
        raise InvalidField("delta.finished.output_tokens", f"{message.output_tokens} are too many", limit=MAX_TOKENS)
    known = message.reason in scheduler_pb2.FinishReason.values()
    name = scheduler_pb2.FinishReason.Name(message.reason) if known else "FINISH_REASON_UNSPECIFIED"
    return Outcome(
        handle=message.handle,
        reason=name.removeprefix("FINISH_REASON_").lower(),
        output_tokens=message.output_tokens,
        latency_s=_finite(message.latency_s, "delta.finished.latency_s"),
        time_to_first_token_s=_finite(message.time_to_first_token_s, "delta.finished.time_to_first_token_s"),
        preemptions=message.preemptions,
        recomputed_tokens=message.recomputed_tokens,
    )


def _unique(handles: Iterable[int], field: str) -> None:
    seen: set[int] = set()
    for handle in handles:
        if handle == 0:
            raise InvalidField(field, "must not be 0")
        if handle in seen:
            raise InvalidField(field, f"{handle} appears twice")
        seen.add(handle)


def _finite(value: float, field: str) -> float:
    if not (math.isfinite(value) and value >= 0):
        raise InvalidField(field, f"{value} is not a finite number of seconds, 0 or more")
    return value


def _ints(values: Iterable[int]) -> Ints:
    return np.array(list(values), dtype=np.int64)
