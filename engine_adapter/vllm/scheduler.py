"""The scheduler mixin: applies the newest plan before each step, and reports each step.

It sorts and preempts *before* vLLM's own ``schedule()`` and never copies a line of it: what a step may hold stays
vLLM's decision. Without a living plan nothing is touched, and the engine serves in its own order.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from itertools import chain
from operator import attrgetter, gt
from typing import TYPE_CHECKING, Any

from vllm.platforms import current_platform
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request, RequestStatus

from engine_adapter.board import BoardPlan, BoardReader
from engine_adapter.records import Engine
from engine_adapter.ring import RingProducer
from engine_adapter.vllm import compat, settings
from engine_adapter.vllm.queue import PlannedQueue
from engine_adapter.vllm.reporter import Reporter

logger = logging.getLogger("vllm.trail")
_IS_CHUNK = attrgetter("is_prefill_chunk")

if TYPE_CHECKING:
    from vllm.v1.core.sched.scheduler import Scheduler as _Base
else:
    _Base = object


class PlanMixin(_Base):
    """Goes in front of one of vLLM's scheduler classes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        compat.check_version()
        super().__init__(*args, **kwargs)
        compat.check_config(self.vllm_config)
        given = settings.read(self.vllm_config)
        self._queue = PlannedQueue()
        self.waiting = self._queue
        self._most_active: int = getattr(self, "max_num_active_reqs", None) or self.max_num_running_reqs
        """Requests that may run at once: from 0.32 on, fewer than a model runner has slots, where that is asked for."""
        self._board = BoardReader(given.paths.board)
        self._own_watermark = compat.watermark_blocks(self.kv_cache_manager)
        self._reporter = Reporter(
            RingProducer(given.paths.events, given.event_ring_bytes),
            Engine(
                max_running_requests=self._most_active,
                kv_blocks=self.kv_cache_manager.block_pool.num_gpu_blocks,
                kv_block_tokens=self.block_size,
                step_token_budget=self.max_num_scheduled_tokens,
            ),
            ahead=isinstance(self, AsyncScheduler),
        )
        self._plan_number = 0
        """Of the plan in force; 0: none."""
        self._ranks: dict[str | None, float] | None = {}
        """By request id; None: still to be taken from ``_read``."""
        self._read: BoardPlan | None = None
        self._reordered = False
        """Whether plans have changed the batch since the engine had its own order."""
        self._steps = 0
        self._on_cpu = current_platform.is_cpu()
        self._gone: list[int] = []
        logger.info("trail: engine %s, rings in %s", given.engine_id, given.paths.folder)

    def add_request(self, request: Request) -> None:
        super().add_request(request)
        # The end of a streaming input comes as a request too, and leaves none behind.
        living = self.requests.get(request.request_id)
        if living is not None:
            self._reporter.arrived(living)

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        # A paused engine drains its batch: nobody may leave it for requests that are not admitted.
        victims = self._apply_plan() if self._pause_state == PauseState.UNPAUSED else []
        self._gone = [self._reporter.handle(victim) for victim in victims] + self._gone
        output = super().schedule(*args, **kwargs)
        self._queue.release()
        self._steps += 1
        self._reporter.step(
            self._steps,
            self.running,
            output,
            self._gone,
            preempted_by_plan=len(victims),
            plan_number=self._plan_number,
            free_kv_blocks=self._unused_blocks(),
            waiting=self.get_request_counts()[1],
        )
        self._gone = []
        return output

    def update_from_output(self, *args: Any, **kwargs: Any) -> Any:
        self._reporter.progress += 1
        return super().update_from_output(*args, **kwargs)

    def _preempt_request(self, request: Request, *args: Any, **kwargs: Any) -> None:
        self._reporter.preempted(request, request.num_computed_tokens)
        super()._preempt_request(request, *args, **kwargs)
        self._gone.append(self._reporter.handle(request))

    def _free_request(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        self._reporter.finished(request)
        self._queue.forget(request.request_id)
        return super()._free_request(request, *args, **kwargs)

    def _apply_plan(self) -> list[Request]:
        """Brings queue and batch into the plan's order where that can matter; returns whom it preempted.

        Victims stay out of the waiting queue until the step is made: vLLM does not allow a request to be preempted and
        resumed in one step.
        """
        head = self._board.head()
        if head is None:
            return []
        if not head.alive():
            self._fail_open()
            return []
        self._plan_number = head.number
        # vLLM's own reserve for admissions: not applied to an engine that runs nobody.
        self.kv_cache_manager.watermark_blocks = max(self._own_watermark, head.reserve_blocks)
        free_slots = self._free_slots()
        admits = free_slots > 0 and bool(self._queue) and self._has_room()
        chunked = any(map(_IS_CHUNK, self.running))
        # Blocks or the token budget may not do for all of the batch; decodes take one of either at most.
        order_matters = chunked or self._unused_blocks() < len(self.running)
        victims: list[Request] = []
        if head.preemptions or admits or order_matters:
            newest = self._board.newest()
            if newest is not None:
                self._read, self._ranks = newest, None
                self._queue.follow(self._reporter.request_ids(newest.handles.tolist()))
                victims = self._preempt(newest, free_slots)
        if order_matters:
            self._sort_running()
        if not self._has_room() or (not chunked and self._gathers(head.admit_together)):
            self._queue.close()
        return victims

    def _has_room(self) -> bool:
        """Whether vLLM could admit anybody, which takes a block beyond those that it keeps free; else it would look the
        first of the queue up in its prefix cache at every step, for nothing."""
        return not self.running or self._unused_blocks() > self.kv_cache_manager.watermark_blocks

    def _unused_blocks(self) -> int:
        free: int = self.kv_cache_manager.block_pool.get_num_free_blocks()
        return free

    def _gathers(self, admit_together: int) -> bool:
        """Whether places are left free until there are so many: a step that admits one costs the batch what a step
        that admits them all does. Half of all places at most: an engine with room admits, whatever a plan says."""
        return self._most_active - len(self.running) < min(admit_together, self._most_active // 2)

    def _free_slots(self) -> int:
        """As vLLM counts them: a session that waits for more of its prompt keeps its slot."""
        return self._most_active - len(self.running) - self.num_waiting_for_streaming_input

    def _fail_open(self) -> None:
        """Back to the engine's own order: the plan on the board has run out."""
        if not self._plan_number:
            return
        self._plan_number, self._ranks, self._read = 0, {}, None
        self._queue.follow(())
        self.kv_cache_manager.watermark_blocks = self._own_watermark
        if self._reordered or self._queue.overtook:
            self.running.sort(key=lambda request: request.arrival_time)
            self._reordered = self._queue.overtook = False
        logger.info("trail: no living plan, back to the engine's own order")

    def _sort_running(self) -> None:
        """Best first: where KV blocks run out, vLLM evicts the last of the batch. Prefill chunks go behind decodes,
        lest a long prompt of good rank takes the step's whole token budget. A batch that vLLM itself has in the plan's
        order is left as it is."""
        if self._ranks is None and self._read is not None:
            names = self._reporter.request_ids(self._read.handles.tolist())
            self._ranks = dict(zip(names, self._read.ranks.tolist(), strict=True))
        rank_of, unranked = (self._ranks or {}).get, float("inf")
        ranks = [rank_of(request.request_id, unranked) for request in self.running]
        if any(map(gt, ranks, ranks[1:])):
            self.running.sort(key=lambda request: (request.is_prefill_chunk, rank_of(request.request_id, unranked)))
            self._reordered = True

    def _preempt(self, plan: BoardPlan, free_slots: int) -> list[Request]:
        """Carries out those preemptions whose guard still holds and whose beneficiary still needs the place, and can
        take it: vLLM passes over a request whose LoRA adapter is one too many for the batch."""
        victims: list[Request] = []
        coming: list[Request] = []
        victims_ids = self._reporter.request_ids(plan.victims.tolist())
        beneficiaries = self._reporter.request_ids(plan.beneficiaries.tolist())
        for victim_id, only_if_age_below, beneficiary_id in zip(
            victims_ids, plan.guards.tolist(), beneficiaries, strict=True
        ):
            victim = self.requests.get(victim_id or "")
            if victim is None or beneficiary_id not in self._queue or not self._preemptible(victim, only_if_age_below):
                continue
            beneficiary = self.requests[beneficiary_id]
            if free_slots > 0 and self._fits(beneficiary) and self._adapter_fits(beneficiary, self.running, coming):
                free_slots -= 1
                coming.append(beneficiary)
                continue
            if not self._adapter_fits(beneficiary, (other for other in self.running if other is not victim), coming):
                continue
            coming.append(beneficiary)
            self.running.remove(victim)
            self._reporter.preempted(victim, victim.num_computed_tokens)
            super()._preempt_request(victim, time.monotonic())
            self._queue.hold(victim)
            victims.append(victim)
            self._reordered = True
        return victims

    def _preemptible(self, victim: Request, only_if_age_below: int) -> bool:
        running = victim.status == RequestStatus.RUNNING
        return running and victim.num_output_tokens < only_if_age_below and not self._must_not_recompute(victim)

    def _must_not_recompute(self, request: Request) -> bool:
        """vLLM rewinds the generator of a seeded request at each chunk of its prefill, which CPU generators cannot do
        (seen with 0.32): a recompute in chunks would kill the engine."""
        seeded = request.sampling_params is not None and request.sampling_params.seed is not None
        return seeded and self._on_cpu and self.scheduler_config.enable_chunked_prefill

    def _fits(self, request: Request) -> bool:
        """Whether there are free KV blocks for the whole of ``request``."""
        return self._unused_blocks() * self.block_size >= request.num_tokens

    def _adapter_fits(self, request: Request, running: Iterable[Request], coming: list[Request]) -> bool:
        """Whether a batch of these may have the LoRA adapter of ``request`` too."""
        if self.lora_config is None or request.lora_request is None:
            return True
        there = {other.lora_request.lora_int_id for other in chain(running, coming) if other.lora_request is not None}
        return len(there | {request.lora_request.lora_int_id}) <= self.lora_config.max_loras


class TrailScheduler(PlanMixin, Scheduler):
    """For engines without asynchronous scheduling, as vLLM's CPU build."""


class TrailAsyncScheduler(PlanMixin, AsyncScheduler):
    """For engines with asynchronous scheduling."""
