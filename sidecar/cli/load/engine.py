"""An engine that always has work: whoever ends is followed by a new request."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine_adapter.records import Engine
from engine_adapter.simulated.engine import SimulatedEngine
from engine_adapter.simulated.model import Computed
from engine_adapter.simulated.request import SimulatedRequest
from sidecar.cli.load.options import LoadOptions
from sidecar.cli.load.plan_watch import PlanWatch

BLOCK_TOKENS = 16
PROMPT_TOKENS = 64
LONGEST_TOKENS = 4096
_POOL_ROWS = 512
_RING_STEPS = 16
_LEAST_RING_BYTES = 8 << 20


class LoadEngine(SimulatedEngine):
    """`requests` run and `waiting` wait. Rows come from a pool of noise: drawing each anew would cost more than all
    that is measured."""

    def __init__(self, engine_id: str, options: LoadOptions, root: Path, seed: int, watch: PlanWatch) -> None:
        tokens = PROMPT_TOKENS + LONGEST_TOKENS
        blocks = options.requests * -(-tokens // BLOCK_TOKENS)
        capacity = Engine(options.requests, blocks, BLOCK_TOKENS, 8192)
        ring_bytes = max(_LEAST_RING_BYTES, _RING_STEPS * options.requests * (2 * options.dim + 64))
        super().__init__(engine_id, capacity, dim=options.dim, shm_root=root, seed=seed, row_ring_bytes=ring_bytes)
        self._watch, self._name = watch, engine_id
        self._alive = options.requests + options.waiting
        self._lengths = np.random.default_rng(seed)
        self._mean_tokens = options.output_tokens
        self._pool = self._lengths.standard_normal((_POOL_ROWS + options.requests, options.dim)).astype(np.float16)
        self.stepped = self.submitted = self.finished = 0

    def advance(self) -> None:
        """One step; then as many requests come as have ended."""
        self.stepped += 1
        self.finished += len(self.step().finished)
        while self.living < self._alive:
            self._submit_one()

    def _submit_one(self) -> None:
        tokens = int(np.clip(self._lengths.exponential(self._mean_tokens), 2, LONGEST_TOKENS))
        prompt = tuple(self._lengths.integers(1, 1000, PROMPT_TOKENS).tolist())
        self.submit(SimulatedRequest(f"{self._name}-{self.submitted}", prompt, tokens, time.time()))
        self.submitted += 1

    def _vectors(self, entries: Sequence[Computed]) -> npt.NDArray[np.float16]:
        self._watch.shipped({entry.request.handle: entry.age_tokens for entry in entries})
        start = int(self._random.integers(_POOL_ROWS))
        return self._pool[start : start + len(entries)]
