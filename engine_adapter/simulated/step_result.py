"""What one step is going to do, and what it did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from engine_adapter.simulated.batch import Bools, Handles, Ints
from engine_adapter.simulated.request import SimulatedRequest


@dataclass(frozen=True, slots=True)
class StepLoad:
    """What a step's duration depends on: requests that compute, tokens of those among them whose prompt is not
    complete yet, and KV entries of all that run, this step's included."""

    batch: int
    prefill_tokens: int
    kv_tokens: int


@dataclass(frozen=True, slots=True)
class Computed:
    """The newest token of a request that passed the model: at ``age_tokens``, 0 for the last prompt token."""

    request: SimulatedRequest
    age_tokens: int


@dataclass(slots=True, eq=False)
class StepResult:
    """One step. Arrays [N] are of the batch as it went into the step: ``ages``, ``computed_tokens`` and the ``chunks``
    of tokens that it computes; ``made`` tells who generated a token, once the step is executed."""

    requests: Sequence[SimulatedRequest]
    handles: Handles
    ages: Ints
    computed_tokens: Ints
    chunks: Ints
    load: StepLoad
    admitted: Sequence[SimulatedRequest]
    preempted_by_plan: Sequence[SimulatedRequest]
    evicted: Sequence[SimulatedRequest]
    made: Bools = field(default_factory=lambda: np.zeros(0, np.bool_))
    finished: Sequence[SimulatedRequest] = ()

    @property
    def running(self) -> Sequence[tuple[SimulatedRequest, int, int]]:
        """Each request with its age and its computed tokens."""
        return list(zip(self.requests, self.ages.tolist(), self.computed_tokens.tolist(), strict=True))

    @property
    def computed(self) -> Sequence[Computed]:
        """The newest token of each request that generated one."""
        rows = np.flatnonzero(self.made).tolist()
        return [Computed(self.requests[row], int(self.ages[row])) for row in rows]
