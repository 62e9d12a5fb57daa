"""Everything known about one engine at one moment, as arrays: what policies and the planner see."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

ROW = np.dtype(
    [
        ("handle", np.uint64),
        ("running", np.bool_),
        ("arrival_s", np.float64),
        ("prompt_tokens", np.int64),
        ("computed_tokens", np.int64),
        ("age", np.int64),
        ("priority", np.int64),
        ("deadline_s", np.float64),
        ("tenant", np.int64),
        ("declared_output_tokens", np.int64),
        ("r0", np.float64),
        ("r1", np.float64),
        ("borrowed_r", np.float64),
        ("mean", np.float64),
        ("median", np.float64),
        ("p10", np.float64),
        ("p90", np.float64),
        ("predicted_at_age", np.int64),
        ("stage", np.int64),
        ("preemptions", np.int64),
        ("age_at_preemption", np.int64),
    ]
)
"""One living request. `predicted_at_age` and `age_at_preemption` are -1 where there was none, `deadline_s` is 0."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Handles = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the engine can hold; 0 means unknown, and then never limits."""

    max_running_requests: int = 0
    kv_blocks: int = 0
    kv_block_tokens: int = 0
    step_token_budget: int = 0

    @property
    def places(self) -> int:
        """Requests that run at once when the engine is full; 1 where it did not tell."""
        return self.max_running_requests or 1


@dataclass(frozen=True, slots=True, eq=False)
class EngineView:
    """N living requests of one engine (every array is [N]) and the engine's own pace.

    Lengths and ages are in tokens. `r0` and `r1` are predicted totals (0: none yet), `borrowed_r` is the
    total that another request was predicted (0: none yet). `mean`, `median`, `p10` and `p90` are tokens still to come
    after `predicted_at_age`; they mean nothing where that is -1. `arrival_s`, `deadline_s` and `now_s` are of one
    clock.

    The arrays may be the state's own: a view holds until the state changes.
    """

    handle: Handles
    running: Bools
    arrival_s: Floats
    prompt_tokens: Ints
    computed_tokens: Ints
    age: Ints
    priority: Ints
    deadline_s: Floats
    tenant: Ints
    declared_output_tokens: Ints
    r0: Floats
    r1: Floats
    borrowed_r: Floats
    mean: Floats
    median: Floats
    p10: Floats
    p90: Floats
    predicted_at_age: Ints
    stage: Ints
    preemptions: Ints
    age_at_preemption: Ints
    capacity: Capacity = Capacity()
    free_kv_blocks: int = 0
    step_duration_s: float = 0.02
    prefill_tokens_per_s: float = 4000.0
    prefill_step_s: float = 0.0
    """What a step with prefill takes beyond one without, however little it computes."""
    mean_output_tokens: float = 128.0
    mean_service_s: float = 2.56
    """Of a request that finished: what it had of one place, prefill counted for all of them (`work`)."""
    step: int = -1
    now_s: float = 0.0
    """Time of the plan."""
    overtaken_before_s: float = -math.inf
    """Who arrived up to then has been overtaken by as much service as may be (`overtaking`)."""
    tenant_service_s: Floats = field(default_factory=lambda: np.zeros(1))
    """[tenants] what each was served lately, seconds of the whole engine over its weight (`tenants`)."""
    recompute_share: float = 0.0
    """Of the tokens computed lately, how many had been computed before."""
    found_again_share: float = 0.0
    """Of the KV entries that preempted requests had, how many the prefix cache gave back lately when they resumed."""

    def __len__(self) -> int:
        return int(self.handle.size)

    def take(self, rows: Ints) -> EngineView:
        """The same engine with its requests picked, or reordered, by row number."""
        return dataclasses.replace(self, **{name: getattr(self, name).take(rows) for name in ROW.names or ()})

    def held_tokens(self) -> Ints:
        """[N] KV entries once the newest step, which a report tells as it begins, is done."""
        budget = self.capacity.step_token_budget
        all_tokens = self.prompt_tokens + self.age
        after = np.minimum(all_tokens, self.computed_tokens + budget) if budget else all_tokens
        return np.where(self.running, np.maximum(after, self.computed_tokens), self.computed_tokens)

    @property
    def kv_used_share(self) -> float:
        """Of the KV blocks, how many are taken; 0 where the engine did not tell."""
        return 1 - self.free_kv_blocks / self.capacity.kv_blocks if self.capacity.kv_blocks else 0.0

    def kv_blocks_of(self, tokens: Ints) -> Ints:
        """Blocks that so many tokens fill; 0 where the engine did not tell its block size."""
        size = self.capacity.kv_block_tokens
        return -(-tokens // size) if size else np.zeros_like(tokens)
