"""Tells the agent, through the event ring, what the scheduler does. Never waits: what does not fit is dropped and
counted, and the agent asks for all living requests again."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.request import Request, RequestStatus

from engine_adapter.records import Arrived, Engine, Finished, Step, handle_of
from engine_adapter.ring import RingProducer

STOP, LENGTH, ABORT, ERROR = 1, 2, 3, 4  # trail.v1.FinishReason
_REASONS = {
    RequestStatus.FINISHED_STOPPED: STOP,
    RequestStatus.FINISHED_REPETITION: STOP,
    RequestStatus.FINISHED_LENGTH_CAPPED: LENGTH,
    RequestStatus.FINISHED_ABORTED: ABORT,
}


@dataclass(slots=True)
class _Living:
    """What the reporter remembers of one request."""

    handle: int
    request: Request
    first_token_s: float = 0.0
    recomputed_tokens: int = 0
    lost_tokens: int = 0
    """KV entries that the newest preemption discarded and that are not back yet."""


class Reporter:
    """One engine's events, from its scheduler's point of view."""

    def __init__(self, ring: RingProducer, engine: Engine, *, ahead: bool) -> None:
        """``ahead``: a step is scheduled while the one before it is still under way (asynchronous scheduling)."""
        self._ring, self._engine, self._ahead = ring, engine, ahead
        self._last: dict[str, int] = {}
        self._before_last: dict[str, int] = {}
        """Tokens that the last two steps were to compute, by request."""
        self._living: dict[str, _Living] = {}
        self._by_handle: dict[int, str] = {}
        self._last_step_ns = 0
        self._declare_all()

    def request_id(self, handle: int) -> str | None:
        """Id of the living request with this handle."""
        return self._by_handle.get(handle)

    def handle(self, request: Request) -> int:
        return self._living[request.request_id].handle

    def arrived(self, request: Request) -> None:
        if request.request_id in self._living:  # a further chunk of a streaming input
            return
        living = _Living(handle_of(request.request_id), request)
        self._living[request.request_id] = living
        self._by_handle[living.handle] = request.request_id
        if not self._declare_to_newcomer():
            self._ring.write(_arrived(living).pack())

    def finished(self, request: Request) -> None:
        living = self._living.pop(request.request_id, None)
        if living is None:
            return
        self._by_handle.pop(living.handle, None)
        first = living.first_token_s or (time.time() if request.num_output_tokens else 0.0)
        record = Finished(
            handle=living.handle,
            reason=_REASONS.get(request.status, ERROR),
            output_tokens=request.num_output_tokens,
            latency_s=time.time() - request.arrival_time,
            time_to_first_token_s=max(first - request.arrival_time, 0.0) if first else 0.0,
            preemptions=request.num_preemptions,
            recomputed_tokens=living.recomputed_tokens,
        )
        self._ring.write(record.pack())

    def preempted(self, request: Request, computed_tokens: int) -> None:
        """``computed_tokens``: KV entries that the preemption discards."""
        self._living[request.request_id].lost_tokens = computed_tokens

    def step(
        self,
        number: int,
        running: list[Request],
        output: SchedulerOutput,
        preempted: Iterable[int],
        *,
        preempted_by_plan: int,
        plan_number: int,
        free_kv_blocks: int,
        waiting: int,
    ) -> None:
        """Reports the batch that ``schedule()`` has just made; declares everything where the agent is new."""
        self._declare_to_newcomer()
        now_ns = time.monotonic_ns()
        gone = list(preempted)
        self._follow_progress(running, output)
        computed = self._computed_tokens(running, output)
        # What has passed since a step was scheduled is its own time; ahead, that of the one before it.
        known = self._last and (self._before_last or not self._ahead)
        duration_s = (now_ns - self._last_step_ns) / 1e9 if known else 0.0
        self._last_step_ns = now_ns
        self._before_last, self._last = self._last, output.num_scheduled_tokens
        living = self._living
        record = Step(
            step=number,
            monotonic_ns=now_ns,
            plan_number=plan_number,
            duration_s=duration_s,
            free_kv_blocks=free_kv_blocks,
            waiting=waiting,
            running=np.array([living[r.request_id].handle for r in running], np.uint64),
            ages=np.array([r.num_output_tokens for r in running], np.uint32),
            computed_tokens=computed,
            preempted=np.array(gone, np.uint64),
            preempted_by_plan=preempted_by_plan,
        )
        self._ring.write(record.pack())

    def _computed_tokens(self, running: list[Request], output: SchedulerOutput) -> npt.NDArray[np.uint32]:
        """[N] KV entries that there are: vLLM has counted what this step and those under way are going to compute."""
        now, under_way = output.num_scheduled_tokens, self._last if self._ahead else {}
        there = [r.num_computed_tokens - now.get(r.request_id, 0) - under_way.get(r.request_id, 0) for r in running]
        return np.array(there, np.int64).clip(min=0).astype(np.uint32)

    def _follow_progress(self, running: list[Request], output: SchedulerOutput) -> None:
        scheduled = output.num_scheduled_tokens
        for request in running:
            living = self._living[request.request_id]
            if not living.first_token_s and request.num_output_tokens:
                living.first_token_s = time.time()
            if living.lost_tokens:
                cached = request.num_computed_tokens - scheduled.get(request.request_id, 0)
                living.recomputed_tokens += max(living.lost_tokens - cached, 0)
                living.lost_tokens = 0

    def _declare_to_newcomer(self) -> bool:
        """Declares everything where another agent listens than before, or the same one asks again."""
        newcomer = self._ring.consumer_generation != self._heard_by
        if newcomer:
            self._declare_all()
        return newcomer

    def _declare_all(self) -> None:
        self._heard_by = self._ring.consumer_generation
        self._ring.write(self._engine.pack())
        for living in self._living.values():
            self._ring.write(_arrived(living).pack())


def _arrived(living: _Living) -> Arrived:
    request = living.request
    parameters = request.sampling_params
    extra = (parameters.extra_args if parameters is not None else None) or {}
    return Arrived(
        handle=living.handle,
        request_id=request.request_id,
        arrival_time_s=request.arrival_time,
        age_tokens=request.num_output_tokens,
        max_tokens=min(request.max_tokens, 2**32 - 1),
        declared_output_tokens=_count(extra.get("trail_output_tokens")),
        priority=max(-(2**31), min(request.priority, 2**31 - 1)),
        tenant=str(extra.get("trail_tenant", "")),
        prompt_token_ids=np.array(request.prompt_token_ids or (), np.uint32),
    )


def _count(value: object) -> int:
    """A client's number of tokens; 0 where it is none."""
    return int(value) if isinstance(value, (int, float)) and 0 < value < 2**32 else 0
