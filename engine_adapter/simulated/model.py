"""Continuous batching as arithmetic: no clock, no I/O, no randomness. Time is whatever the caller says.

One step, as in vLLM: the running requests first, each chunk within the step's token budget; where KV blocks run out,
the last of the batch is evicted; then waiting requests are admitted. Before that, a new plan sorts and preempts.
"""

from __future__ import annotations

import numpy as np

from engine_adapter.board import BoardPlan
from engine_adapter.records import Engine
from engine_adapter.simulated.admission import admit
from engine_adapter.simulated.batch import Batch, Ints
from engine_adapter.simulated.blocks import KvBlocks
from engine_adapter.simulated.contention import serve_in_order
from engine_adapter.simulated.preempting import preempt
from engine_adapter.simulated.request import SimulatedRequest
from engine_adapter.simulated.step_result import Computed, StepLoad, StepResult
from engine_adapter.simulated.waiting import WaitingRequests

__all__ = ["Computed", "EngineModel", "StepLoad", "StepResult"]


class EngineModel:
    """State of one engine between steps."""

    def __init__(self, capacity: Engine, *, prefix_cache: bool = False) -> None:
        self.capacity = capacity
        self.batch = Batch(capacity.max_running_requests)
        self.kv = KvBlocks(capacity.kv_blocks, capacity.kv_block_tokens, prefix_cache=prefix_cache)
        self.queue = WaitingRequests()
        self._plan: BoardPlan | None = None

    @property
    def running(self) -> list[SimulatedRequest]:
        return self.batch.requests

    @property
    def waiting(self) -> list[SimulatedRequest]:
        """Best first."""
        return list(self.queue)

    @property
    def free_kv_blocks(self) -> int:
        return self.kv.free

    def submit(self, request: SimulatedRequest) -> None:
        """Raises ValueError where the request could never run to its end."""
        tokens = request.prompt_tokens + request.output_tokens
        if self.kv.count(tokens) > self.capacity.kv_blocks:
            raise ValueError(
                f"{request.request_id}: {tokens} tokens do not fit into {self.capacity.kv_blocks} KV blocks"
            )
        self.queue.add(request)

    def step(self, plan: BoardPlan | None, now_s: float) -> StepResult:
        """Runs one step that ends at ``now_s``; ``plan`` is the living one, None for the engine's own order."""
        result = self.schedule(plan)
        self.execute(result, now_s)
        return result

    def schedule(self, plan: BoardPlan | None) -> StepResult:
        """Decides who computes what in the next step, which ``execute`` must follow."""
        by_plan = self._follow(plan)
        chunks, evicted = self._schedule_running()
        admitted: list[SimulatedRequest] = []
        if not evicted and len(self.queue) and self._admits(chunks):
            reserve_blocks = self._plan.reserve_blocks if self._plan else 0
            admitted, more = admit(self.queue, self.batch, self.kv, self.capacity, int(chunks.sum()), reserve_blocks)
            chunks = np.concatenate([chunks, np.array(more, np.int64)])
        # A victim never resumes in the step that preempted it.
        for request in (*evicted, *by_plan):
            self.queue.add(request)
        batch = self.batch
        load = StepLoad(
            int(np.count_nonzero(chunks)),
            int(chunks[batch.prefilling()].sum()),
            int(batch.computed.sum() + chunks.sum()),
        )
        return StepResult(
            list(batch.requests), batch.handles.copy(), batch.age.copy(), batch.computed.copy(), chunks, load,
            admitted, by_plan, evicted,
        )  # fmt: skip

    def execute(self, result: StepResult, now_s: float) -> None:
        """The forward pass: a request whose every token has KV entries generates the next one, at ``now_s``."""
        batch, chunks = self.batch, result.chunks
        batch.computed[:] += chunks
        if batch.lost.any():
            again = np.minimum(chunks, batch.lost)
            batch.lost[:] -= again
            batch.recomputed[:] += again
        if result.load.prefill_tokens:
            self._share(result)
        result.made = (batch.missing() == 0) & (chunks > 0)
        batch.age[:] += result.made
        for row in np.flatnonzero(result.made & (result.ages == 0)).tolist():
            batch.requests[row].first_token_s = now_s
        living = batch.age < batch.output
        if not living.all():
            computed = batch.computed[~living].tolist()
            result.finished = batch.keep(living)
            for request, tokens in zip(result.finished, computed, strict=True):
                self.kv.release(request, tokens)

    def _follow(self, plan: BoardPlan | None) -> list[SimulatedRequest]:
        """Takes over the plan's order; a new one preempts whom it says where the guards hold. Returns the victims."""
        if plan is self._plan:
            return []
        self._plan = plan
        self.queue.follow(() if plan is None else plan.handles.tolist())
        return [] if plan is None else preempt(plan, self.batch, self.queue, self.kv, self.capacity)

    def _admits(self, chunks: Ints) -> bool:
        """Whether places are free, and as many as the plan lets come free where the step has no prefill as it is."""
        places = self.capacity.max_running_requests
        free = places - len(self.batch)
        least = min(self._plan.admit_together, places // 2) if self._plan else 0
        return free > 0 and (free >= least or bool((chunks > 1).any()))

    def _schedule_running(self) -> tuple[Ints, list[SimulatedRequest]]:
        """[N] tokens that each running request computes, and whom it evicted where KV blocks ran out."""
        chunks, size = self.batch.missing(), self.kv.block_tokens
        computed = self.batch.computed
        blocks = int(((computed + (chunks + (size - 1))) // size - (computed + (size - 1)) // size).sum())
        if int(chunks.sum()) <= self.capacity.step_token_budget and blocks <= self.kv.free:
            self.kv.take(blocks)
            return chunks, []
        return serve_in_order(self.batch, self.kv, self._plan, self.capacity.step_token_budget)

    def _share(self, result: StepResult) -> None:
        for row in np.flatnonzero(result.chunks > 1).tolist():
            request = result.requests[row]
            if request.prefix_keys:
                before = int(result.computed_tokens[row])
                self.kv.computed(request, before, before + int(result.chunks[row]))
