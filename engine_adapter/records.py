"""What travels through the rings: events (scheduler -> agent) and rows (tap -> agent).

Little-endian, no padding; the first byte is the kind. Engine and agent are of one version and on one host.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from engine_adapter.ring import padded

Handles = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.uint32]

ARRIVED, STEP, FINISHED, ENGINE, ROWS = range(1, 6)
DTYPES: dict[int, np.dtype[np.generic]] = {1: np.dtype(np.float16), 2: np.dtype(np.uint16), 3: np.dtype(np.float32)}
"""Codes of trail.v1.Dtype; bfloat16 travels as its bits."""

MAX_NAME_BYTES = 256
"""Of a request id and of a tenant."""

_ARRIVED = struct.Struct("<BQdIIIiIHH")
_STEP = struct.Struct("<BQQQdIIIII?I")
_FINISHED = struct.Struct("<BQBIddII")
_ENGINE = struct.Struct("<BIIII")
_ROWS = struct.Struct("<BQBII")


def handle_of(request_id: str) -> int:
    """The handle of a request: 64 bits of BLAKE2b of its id, never 0.

    Tap, scheduler and agent compute it on their own, so they need no common table. Two of 10,000 living
    requests share a handle with probability 3e-12.
    """
    return int.from_bytes(hashlib.blake2b(request_id.encode(), digest_size=8).digest(), "little") or 1


def _short(text: str) -> bytes:
    """UTF-8 of ``text``; one beyond the contract's 256 bytes ends in its hash, so that it stays unique."""
    encoded = text.encode()
    if len(encoded) <= MAX_NAME_BYTES:
        return encoded
    suffix = f"~{handle_of(text):016x}".encode()
    start = encoded[: MAX_NAME_BYTES - len(suffix)].decode(errors="ignore").encode()
    return start + suffix


def _nobody() -> Handles:
    return np.zeros(0, np.uint64)


@dataclass(frozen=True, slots=True)
class Engine:
    """Capacity of the engine; the first record of a generation."""

    max_running_requests: int
    kv_blocks: int
    kv_block_tokens: int
    step_token_budget: int

    def pack(self) -> bytes:
        return _ENGINE.pack(
            ENGINE, self.max_running_requests, self.kv_blocks, self.kv_block_tokens, self.step_token_budget
        )


@dataclass(frozen=True, slots=True)
class Arrived:
    """A request that arrived, or that is declared again after a resynchronisation."""

    handle: int
    request_id: str
    arrival_time_s: float
    age_tokens: int
    max_tokens: int
    declared_output_tokens: int
    priority: int
    tenant: str
    prompt_token_ids: Counts

    def pack(self) -> bytes:
        name, tenant = _short(self.request_id), _short(self.tenant)
        return b"".join((
            _ARRIVED.pack(
                ARRIVED, self.handle, self.arrival_time_s, self.age_tokens, self.max_tokens,
                self.declared_output_tokens, self.priority, len(self.prompt_token_ids), len(name), len(tenant),
            ),
            name, tenant, self.prompt_token_ids.tobytes(),
        ))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    """One scheduling step: the running batch as it goes into the step.

    Not ``whole``, it tells of some requests only. The batch is then that of the step before without those who ``left``
    it; those told of are as told, and all others one token further.
    """

    step: int
    monotonic_ns: int
    plan_number: int
    """Of the plan in force; 0: the engine's own order."""
    duration_s: float
    """Since the step before; 0: the engine was idle."""
    free_kv_blocks: int
    waiting: int
    running: Handles
    ages: Counts
    computed_tokens: Counts
    preempted: Handles
    preempted_by_plan: int
    """How many of ``preempted``, from the front, a plan asked for."""
    whole: bool = True
    left: Handles = field(default_factory=_nobody)

    def pack(self) -> bytes:
        return b"".join((
            _STEP.pack(
                STEP, self.step, self.monotonic_ns, self.plan_number, self.duration_s, self.free_kv_blocks,
                self.waiting, len(self.running), len(self.preempted), self.preempted_by_plan, self.whole,
                len(self.left),
            ),
            self.running.tobytes(), self.ages.tobytes(), self.computed_tokens.tobytes(), self.preempted.tobytes(),
            self.left.tobytes(),
        ))  # fmt: skip

    def after(self, before: Step) -> Step:
        """This step whole, from the step before, whole too."""
        stay = ~np.isin(before.running, np.concatenate((self.left, self.running)))
        return replace(
            self,
            running=np.concatenate((before.running[stay], self.running)),
            ages=np.concatenate((before.ages[stay] + np.uint32(1), self.ages)),
            computed_tokens=np.concatenate((before.computed_tokens[stay] + np.uint32(1), self.computed_tokens)),
            whole=True,
            left=_nobody(),
        )


@dataclass(frozen=True, slots=True)
class Finished:
    """A request that ended; ``reason`` is a trail.v1.FinishReason."""

    handle: int
    reason: int
    output_tokens: int
    latency_s: float
    time_to_first_token_s: float
    preemptions: int
    recomputed_tokens: int

    def pack(self) -> bytes:
        return _FINISHED.pack(
            FINISHED, self.handle, self.reason, self.output_tokens, self.latency_s,
            self.time_to_first_token_s, self.preemptions, self.recomputed_tokens,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rows:
    """Hidden states of one step. Shapes: N rows of D values."""

    step: int
    dtype: int
    dim: int
    handles: Handles
    ages: Counts
    """Tokens generated so far; 0: the row is that of the last prompt token."""
    vectors: npt.NDArray[np.generic]
    """[N, D] in ``dtype``."""

    def pack(self) -> tuple[bytes, ...]:
        """Parts of one record, joined by the ring without another copy."""
        return rows_head(self.step, self.dtype, self.dim, self.handles, self.ages), self.vectors.tobytes()


def rows_head(step: int, dtype: int, dim: int, handles: Handles, ages: Counts) -> bytes:
    """A record of rows up to its vectors, [N, D] in ``dtype``.

    Padded to whole cells of the ring, so that vectors lie where a GPU writes fastest.
    """
    head = b"".join((_ROWS.pack(ROWS, step, dtype, dim, len(handles)), handles.tobytes(), ages.tobytes()))
    return head.ljust(padded(len(head)), b"\0")


Record = Engine | Arrived | Step | Finished | Rows


def unpack(record: bytes) -> Record:
    """Parses any record.

    Raises:
        ValueError: unknown kind, or the record is too short.
    """
    try:
        return _PARSERS[record[0]](record)
    except (KeyError, IndexError, struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"broken record of {len(record)} bytes: {error!r}") from error


class _Cursor:
    def __init__(self, record: bytes, at: int) -> None:
        self.record, self.at = record, at

    def take(self, dtype: np.dtype[np.generic] | type, count: int) -> npt.NDArray[np.generic]:
        values = np.frombuffer(self.record, dtype, count, self.at)
        self.at += values.nbytes
        return values

    def text(self, size: int) -> str:
        self.at += size
        return self.record[self.at - size : self.at].decode(errors="replace")


def _arrived(record: bytes) -> Arrived:
    _, handle, arrival, age, cap, declared, priority, prompt, name, tenant = _ARRIVED.unpack_from(record)
    rest = _Cursor(record, _ARRIVED.size)
    request_id, tenant_name = rest.text(name), rest.text(tenant)
    ids = rest.take(np.uint32, prompt).astype(np.uint32, copy=False)
    return Arrived(handle, request_id, arrival, age, cap, declared, priority, tenant_name, ids)


def _step(record: bytes) -> Step:
    _, step, at_ns, plan, duration, free, waiting, running, preempted, by_plan, whole, left = _STEP.unpack_from(record)
    rest = _Cursor(record, _STEP.size)
    handles = rest.take(np.uint64, running).astype(np.uint64, copy=False)
    ages = rest.take(np.uint32, running).astype(np.uint32, copy=False)
    computed = rest.take(np.uint32, running).astype(np.uint32, copy=False)
    gone = rest.take(np.uint64, preempted).astype(np.uint64, copy=False)
    away = rest.take(np.uint64, left).astype(np.uint64, copy=False)
    return Step(step, at_ns, plan, duration, free, waiting, handles, ages, computed, gone, by_plan, whole, away)


def _rows(record: bytes) -> Rows:
    _, step, code, dim, count = _ROWS.unpack_from(record)
    rest, dtype = _Cursor(record, _ROWS.size), DTYPES[code]
    handles = rest.take(np.uint64, count).astype(np.uint64, copy=False)
    ages = rest.take(np.uint32, count).astype(np.uint32, copy=False)
    rest.at = padded(rest.at)
    return Rows(step, code, dim, handles, ages, rest.take(dtype, count * dim).reshape(count, dim))


_PARSERS: dict[int, Callable[[bytes], Record]] = {
    ARRIVED: _arrived,
    STEP: _step,
    FINISHED: lambda record: Finished(*_FINISHED.unpack_from(record)[1:]),
    ENGINE: lambda record: Engine(*_ENGINE.unpack_from(record)[1:]),
    ROWS: _rows,
}
