"""Tells the agent, through the event ring, what the scheduler does. Never waits: what does not fit is dropped and
counted, and the agent asks for all living requests again."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.request import Request, RequestStatus

from engine_adapter.records import Arrived, Engine, Finished, Step, handle_of
from engine_adapter.ring import RingProducer

IN_FLIGHT_STEPS = 3
"""What a request was given so many steps ago has come back by now."""
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
        self.progress = 0
        """Steps whose outcome has come since the last report."""
        self._batch: set[str] = set()
        self._left: list[int] = []
        """Handles of those who have left the batch since the last report."""
        self._unsettled: dict[str, int] = {}
        """Those of the batch who do not just decode yet, with the step in which they last did otherwise."""
        self._whole_until = 0
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
        self._leaves(request.request_id)
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
        self._leaves(request.request_id)
        living = self._living[request.request_id]
        living.lost_tokens = computed_tokens
        self._watched[request.request_id] = living

    def _leaves(self, name: str) -> None:
        if name in self._batch:
            self._batch.remove(name)
            self._left.append(self._handles[name])
            self._unsettled.pop(name, None)

    def step(
        self,
        number: int,
        running: list[Request],
        output: SchedulerOutput,
        preempted: Sequence[int],
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
        told = self._to_tell(number, running, output)
        names = [request.request_id for request in told]
        record = Step(
            step=number,
            monotonic_ns=now_ns,
            plan_number=plan_number,
            duration_s=duration_s,
            free_kv_blocks=free_kv_blocks,
            waiting=waiting,
            running=_array([self._handles[name] for name in names], np.uint64),
            ages=_array([request.num_output_tokens for request in told], np.uint32),
            computed_tokens=_array(self._computed_tokens(told, names, output), np.uint32),
            preempted=_array(preempted, np.uint64),
            preempted_by_plan=preempted_by_plan,
            whole=told is running,
            left=_array(self._left, np.uint64),
        )
        self._left.clear()
        self._before_last, self._last = self._last, output.num_scheduled_tokens
        self._ring.write(record.pack())

    def _to_tell(self, number: int, running: list[Request], output: SchedulerOutput) -> list[Request]:
        """Those of the batch whose progress does not follow from the last report: in most steps the few that came."""
        scheduled, unsettled = output.num_scheduled_tokens, self._unsettled
        for name in (*(new.req_id for new in output.scheduled_new_reqs), *output.scheduled_cached_reqs.resumed_req_ids):
            self._batch.add(name)
            unsettled[name] = number
        for name, otherwise in [*unsettled.items()]:
            if scheduled.get(name) != 1 or self._living[name].request.is_prefill_chunk:
                unsettled[name] = number
            elif number - otherwise >= IN_FLIGHT_STEPS:
                del unsettled[name]
        if len(scheduled) != len(running):
            self._whole_until = number + IN_FLIGHT_STEPS
        one_came_back, self.progress = self.progress == 1, 0
        if len(self._batch) != len(running):
            self._batch = {request.request_id for request in running}
            self._unsettled = dict.fromkeys(self._batch, number)
        elif one_came_back and number > self._whole_until and number % WHOLE_EVERY_STEPS:
            return [self._living[name].request for name in unsettled]
        return running

    def _computed_tokens(self, told: list[Request], names: list[str], output: SchedulerOutput) -> list[int]:
        """[N] KV entries that there are: vLLM has counted what this step and those under way are going to compute."""
        this, last = output.num_scheduled_tokens.get, (self._last if self._ahead else {}).get
        there = (
            request.num_computed_tokens - this(name, 0) - last(name, 0)
            for request, name in zip(told, names, strict=True)
        )
        return [count if count > 0 else 0 for count in there]

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
        self._batch.clear()
        self._unsettled.clear()
        self._heard_by = self._ring.consumer_generation
        self._ring.write(self._engine.pack())
        for living in self._living.values():
            self._ring.write(_arrived(living).pack())


_EMPTY = {kind: np.zeros(0, kind) for kind in (np.uint32, np.uint64)}


def _array(values: Sequence[int], kind: type[Any]) -> npt.NDArray[Any]:
    """Most are empty, and numpy's ways are long where its code is cold."""
    return np.array(values, kind) if values else _EMPTY[kind]


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
