"""Requests that arrive: when, and how long they are."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine_adapter.simulated.request import SimulatedRequest

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

HASH_BLOCK_TOKENS = 512
"""Prompt tokens that one hash of Mooncake's ``hash_ids`` stands for, together with all before them."""


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """N requests in order of arrival, arrays [N]; lengths in tokens, arrivals in seconds after the start.

    ``prefix_hashes`` name the prompts' content in blocks of 512 tokens, where it is known.
    """

    arrival_s: Floats
    prompt_tokens: Ints
    output_tokens: Ints
    prefix_hashes: tuple[tuple[int, ...], ...] = ()
    tenants: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def mean_rate(self) -> float:
        """Requests a second; infinite where all come at once."""
        span_s = float(self.arrival_s[-1] - self.arrival_s[0]) if len(self) > 1 else 0.0
        return (len(self) - 1) / span_s if span_s > 0 else float("inf")

    def take(self, rows: Ints, arrival_s: Floats) -> Workload:
        """These requests, with other times of arrival."""
        return Workload(
            arrival_s,
            self.prompt_tokens[rows],
            self.output_tokens[rows],
            tuple(self.prefix_hashes[row] for row in rows.tolist()) if self.prefix_hashes else (),
            tuple(self.tenants[row] for row in rows.tolist()) if self.tenants else (),
        )

    def request(self, index: int, block_tokens: int) -> SimulatedRequest:
        """Request ``index`` as the engine takes it; its handle is index + 1."""
        return SimulatedRequest(
            f"r{index}",
            range(int(self.prompt_tokens[index])),
            int(self.output_tokens[index]),
            float(self.arrival_s[index]),
            tenant=self.tenants[index] if self.tenants else "",
            prefix_keys=self._prefix_keys(index, block_tokens),
            handle=index + 1,
        )

    def _prefix_keys(self, index: int, block_tokens: int) -> Sequence[Hashable]:
        """A key for each full KV block of the prompt: the hash of the 512 tokens in which it ends, and its place."""
        if not self.prefix_hashes:
            return ()
        hashes = self.prefix_hashes[index]
        full = min(int(self.prompt_tokens[index]) // block_tokens, len(hashes) * HASH_BLOCK_TOKENS // block_tokens)
        return [(hashes[((at + 1) * block_tokens - 1) // HASH_BLOCK_TOKENS] << 24) + at for at in range(full)]
