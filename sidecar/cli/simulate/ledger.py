"""What happened in one run, kept until it is summed up."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from engine_adapter.simulated.request import SimulatedRequest
from engine_adapter.simulated.step_result import StepResult
from sidecar.cli.simulate.workload import Floats, Ints, Workload


@dataclass(slots=True, eq=False)
class Ledger:
    """Times and counts of N requests, arrays [N], and of S steps. Seconds are the run's own."""

    first_token_s: Floats
    finished_s: Floats
    wait_s: Floats
    """In the waiting queue, all its stays there together."""
    preemptions: Ints
    recomputed_tokens: Ints
    cached_tokens: Ints
    waits_since_s: Floats
    step_s: list[float] = field(default_factory=list)
    kv_blocks: list[int] = field(default_factory=list)
    """In use in each step."""
    evictions: int = 0
    """Preemptions for want of KV blocks; the others were a plan's."""

    @classmethod
    def of(cls, workload: Workload) -> Ledger:
        def times() -> Floats:
            return np.full(len(workload), np.nan)

        def counts() -> Ints:
            return np.zeros(len(workload), np.int64)

        wait_s = np.zeros(len(workload))
        return cls(times(), times(), wait_s, counts(), counts(), counts(), workload.arrival_s.copy())

    def scheduled(self, result: StepResult, start_s: float) -> None:
        """A step starts: who enters the batch stops waiting, and who left it begins to."""
        for request in result.admitted:
            self.wait_s[request.handle - 1] += start_s - self.waits_since_s[request.handle - 1]
        for request in (*result.preempted_by_plan, *result.evicted):
            self.waits_since_s[request.handle - 1] = start_s
        self.evictions += len(result.evicted)

    def stepped(self, duration_s: float, kv_blocks: int) -> None:
        self.step_s.append(duration_s)
        self.kv_blocks.append(kv_blocks)

    def finished(self, request: SimulatedRequest, now_s: float) -> None:
        at = request.handle - 1
        first_s = request.first_token_s
        self.first_token_s[at] = now_s if first_s is None else first_s
        self.finished_s[at] = now_s
        self.preemptions[at] = request.preemptions
        self.recomputed_tokens[at] = request.recomputed_tokens
        self.cached_tokens[at] = request.cached_tokens
