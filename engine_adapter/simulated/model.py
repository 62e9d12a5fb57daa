"""Continuous batching as arithmetic: no clock, no I/O, no randomness. Time is whatever the caller says.

One step, as in vLLM: the running requests first, each chunk within the step's token budget; where KV blocks run out,
the last of the batch is evicted; then waiting requests are admitted. Before that, a living plan sorts and preempts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from engine_adapter.board import BoardPlan
from engine_adapter.records import Engine
from engine_adapter.simulated.request import SimulatedRequest

UNRANKED = float("inf")


@dataclass(frozen=True, slots=True)
class Computed:
    """The newest token of a request that passed the model: at ``age_tokens``, 0 for the last prompt token."""

    request: SimulatedRequest
    age_tokens: int


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step did. ``running`` is the batch as it went into the step, with ages and computed tokens then."""

    running: Sequence[tuple[SimulatedRequest, int, int]]
    preempted_by_plan: Sequence[SimulatedRequest]
    evicted: Sequence[SimulatedRequest]
    computed: Sequence[Computed]
    finished: Sequence[SimulatedRequest]


@dataclass(slots=True)
class _Budget:
    """What is left of one step; it dies with the step."""

    tokens: int
    kv_blocks: int
    chunks: dict[SimulatedRequest, int] = field(default_factory=dict)
    """Tokens that each request computes in this step."""


class EngineModel:
    """State of one engine between steps."""

    def __init__(self, capacity: Engine) -> None:
        self.capacity = capacity
        self.running: list[SimulatedRequest] = []
        self.waiting: list[SimulatedRequest] = []
        self._ranks: dict[int, float] = {}

    @property
    def free_kv_blocks(self) -> int:
        return self.capacity.kv_blocks - sum(self._blocks(request.computed_tokens) for request in self.running)

    def submit(self, request: SimulatedRequest) -> None:
        """Raises ValueError where the request could never run to its end."""
        tokens = len(request.prompt_token_ids) + request.output_tokens
        if self._blocks(tokens) > self.capacity.kv_blocks:
            raise ValueError(
                f"{request.request_id}: {tokens} tokens do not fit into {self.capacity.kv_blocks} KV blocks"
            )
        self.waiting.append(request)

    def step(self, plan: BoardPlan | None, now_s: float) -> StepResult:
        """Runs one step that ends at ``now_s``; ``plan`` is the living one, None for the engine's own order."""
        by_plan = self._apply(plan)
        budget = _Budget(self.capacity.step_token_budget, self.free_kv_blocks)
        evicted = self._schedule_running(budget)
        if not evicted:
            self._admit(budget)
        # A victim never resumes in the step that preempted it.
        self.waiting[:0] = [*reversed(evicted), *by_plan]
        entering = [(request, request.age_tokens, request.computed_tokens) for request in self.running]
        computed, finished = self._execute(budget.chunks, now_s)
        return StepResult(entering, by_plan, evicted, computed, finished)

    def _apply(self, plan: BoardPlan | None) -> list[SimulatedRequest]:
        """Sorts by the plan's ranks, and preempts whom it says where the guards hold; returns the victims."""
        self._ranks = {} if plan is None else dict(zip(plan.handles.tolist(), plan.ranks.tolist(), strict=True))
        if plan is None:
            self.running.sort(key=lambda r: r.arrival_s)
            self.waiting.sort(key=lambda r: r.arrival_s)
            return []
        victims = self._preempt(plan)
        self.waiting.sort(key=lambda r: (self._rank(r), r.arrival_s))
        self.running.sort(key=lambda r: (r.in_prefill, self._rank(r), r.arrival_s))
        return victims

    def _preempt(self, plan: BoardPlan) -> list[SimulatedRequest]:
        victims = []
        running = {request.handle: request for request in self.running}
        waiting = {request.handle: request for request in self.waiting}
        free_slots = self.capacity.max_running_requests - len(self.running)
        rows = zip(plan.victims.tolist(), plan.guards.tolist(), plan.beneficiaries.tolist(), strict=True)
        for victim_handle, only_if_age_below, beneficiary_handle in rows:
            victim, beneficiary = running.get(victim_handle), waiting.get(beneficiary_handle)
            if victim is None or beneficiary is None or victim.age_tokens >= only_if_age_below:
                continue
            if free_slots > 0 and self._blocks(beneficiary.tokens) <= self.free_kv_blocks:
                free_slots -= 1
                continue
            del running[victim_handle]
            self.running.remove(victim)
            victim.preempt()
            victims.append(victim)
        return victims

    def _schedule_running(self, budget: _Budget) -> list[SimulatedRequest]:
        """Gives each running request its chunk; returns whom it evicted from the tail, where KV blocks ran out."""
        evicted: list[SimulatedRequest] = []
        index = 0
        while index < len(self.running):
            request = self.running[index]
            if self._schedule(request, budget):
                index += 1
                continue
            victim = self.running.pop()
            budget.kv_blocks += self._blocks(victim.computed_tokens)
            victim.preempt()
            evicted.append(victim)
        return evicted

    def _admit(self, budget: _Budget) -> None:
        """Takes waiting requests in order, until slots, budget or KV blocks are used up."""
        while self.waiting and budget.tokens and len(self.running) < self.capacity.max_running_requests:
            if not self._schedule(self.waiting[0], budget):
                return
            self.running.append(self.waiting.pop(0))

    def _schedule(self, request: SimulatedRequest, budget: _Budget) -> bool:
        """Plans the request's next chunk; False when there are too few KV blocks for it."""
        chunk = min(request.tokens - request.computed_tokens, budget.tokens)
        blocks = self._blocks(request.computed_tokens + chunk) - self._blocks(request.computed_tokens)
        if blocks > budget.kv_blocks:
            return False
        if chunk:
            budget.chunks[request] = chunk
            budget.tokens -= chunk
            budget.kv_blocks -= blocks
        return True

    def _execute(
        self, chunks: dict[SimulatedRequest, int], now_s: float
    ) -> tuple[list[Computed], list[SimulatedRequest]]:
        """The forward pass: a request whose every token has KV entries generates the next one."""
        computed, finished = [], []
        for request, chunk in chunks.items():
            request.compute(chunk)
            if request.computed_tokens < request.tokens:
                continue
            computed.append(Computed(request, request.age_tokens))
            request.age_tokens += 1
            if request.first_token_s is None:
                request.first_token_s = now_s
            if request.age_tokens >= request.output_tokens:
                finished.append(request)
        for request in finished:
            self.running.remove(request)
        return computed, finished

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self.capacity.kv_block_tokens)

    def _rank(self, request: SimulatedRequest) -> float:
        return self._ranks.get(request.handle, UNRANKED)
