"""Tells the agent, through the event ring, what the scheduler does. Never waits: what does not fit is dropped and
counted, and the agent asks for all living requests again."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import numpy.typing as npt
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.request import Request, RequestStatus

from engine_adapter.records import Arrived, Decoded, Engine, Finished, Step, handle_of
from engine_adapter.ring import RingProducer

IN_FLIGHT_STEPS = 3
"""After so many steps alike, no step that is still under way can have been another."""
WHOLE_EVERY_STEPS = 32
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
        self._handles: dict[str, int] = {}
        self._watched: dict[str, _Living] = {}
        """Admitted and without a token yet, or preempted and not back yet."""
        self._last_step_ns = 0
        self._alike, self._count, self._changed = 0, 0, True
        """Steps in a row that gave one token to each of the same ``_count`` requests; whether one has left since."""
        self._probe: tuple[Request, int] | None = None
        """One of them, and the age that was reported of it: they age together."""
        self._declare_all()

    def request_ids(self, handles: Iterable[int]) -> list[str | None]:
        """Ids of the living requests with these handles; None for one that does not live."""
        return list(map(self._by_handle.get, handles))

    def handle(self, request: Request) -> int:
        return self._handles[request.request_id]

    def arrived(self, request: Request) -> None:
        if request.request_id in self._living:  # a further chunk of a streaming input
            return
        living = _Living(handle_of(request.request_id), request)
        self._living[request.request_id] = living
        self._by_handle[living.handle] = request.request_id
        self._handles[request.request_id] = living.handle
        if not self._declare_to_newcomer():
            self._ring.write(_arrived(living).pack())

    def finished(self, request: Request) -> None:
        self._changed = True
        living = self._living.pop(request.request_id, None)
        if living is None:
            return
        self._by_handle.pop(living.handle, None)
        del self._handles[request.request_id]
        self._watched.pop(request.request_id, None)
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
        self._changed = True
        living = self._living[request.request_id]
        living.lost_tokens = computed_tokens
        self._watched[request.request_id] = living

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
        self._follow_progress(output)
        # What has passed since a step was scheduled is its own time; ahead, that of the one before it.
        known = self._last and (self._before_last or not self._ahead)
        duration_s = (now_ns - self._last_step_ns) / 1e9 if known else 0.0
        self._last_step_ns = now_ns
        if self._only_decoded(running, output):
            record: Decoded | Step = Decoded(number, now_ns, plan_number, duration_s, free_kv_blocks, waiting)
        else:
            names = [request.request_id for request in running]
            record = Step(
                step=number,
                monotonic_ns=now_ns,
                plan_number=plan_number,
                duration_s=duration_s,
                free_kv_blocks=free_kv_blocks,
                waiting=waiting,
                running=np.fromiter(map(self._handles.__getitem__, names), np.uint64, len(names)),
                ages=np.array([r.num_output_tokens for r in running], np.uint32),
                computed_tokens=self._computed_tokens(running, names, output),
                preempted=np.array(list(preempted), np.uint64),
                preempted_by_plan=preempted_by_plan,
            )
            self._probe = (running[0], int(record.ages[0])) if running else None
        self._before_last, self._last = self._last, output.num_scheduled_tokens
        self._ring.write(record.pack())

    def _only_decoded(self, running: list[Request], output: SchedulerOutput) -> bool:
        """Whether the batch is that of the last report, each request one token further."""
        count = len(running)
        decodes = output.total_num_scheduled_tokens == len(output.num_scheduled_tokens) == count
        self._alike = self._alike + 1 if decodes and count == self._count and not self._changed else 0
        self._count, self._changed = count, False
        if self._alike < IN_FLIGHT_STEPS or self._alike % WHOLE_EVERY_STEPS == 0 or self._probe is None:
            return False
        request, age = self._probe
        self._probe = request, age + 1
        return bool(request.num_output_tokens == age + 1)

    def _computed_tokens(
        self, running: list[Request], names: list[str], output: SchedulerOutput
    ) -> npt.NDArray[np.uint32]:
        """[N] KV entries that there are: vLLM has counted what this step and those under way are going to compute."""
        count = len(names)
        there = np.array([request.num_computed_tokens for request in running], np.int64)
        there -= np.fromiter(map(output.num_scheduled_tokens.get, names, repeat(0)), np.int64, count)
        if self._ahead:
            there -= np.fromiter(map(self._last.get, names, repeat(0)), np.int64, count)
        return there.clip(min=0).astype(np.uint32)

    def _follow_progress(self, output: SchedulerOutput) -> None:
        for new in output.scheduled_new_reqs:
            self._watched[new.req_id] = self._living[new.req_id]
        scheduled, settled = output.num_scheduled_tokens, []
        for name, living in self._watched.items():
            request = living.request
            if not living.first_token_s and request.num_output_tokens:
                living.first_token_s = time.time()
            if living.lost_tokens and name in scheduled:
                living.recomputed_tokens += max(living.lost_tokens - request.num_computed_tokens + scheduled[name], 0)
                living.lost_tokens = 0
            if living.first_token_s and not living.lost_tokens:
                settled.append(name)
        for name in settled:
            del self._watched[name]

    def _declare_to_newcomer(self) -> bool:
        """Declares everything where another agent listens than before, or the same one asks again."""
        newcomer = self._ring.consumer_generation != self._heard_by
        if newcomer:
            self._declare_all()
        return newcomer

    def _declare_all(self) -> None:
        self._probe = None
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
