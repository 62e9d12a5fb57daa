"""Serving the batch where not everybody gets what they need: too small a token budget, or too few KV blocks."""

from __future__ import annotations

import numpy as np

from engine_adapter.board import BoardPlan
from engine_adapter.simulated.batch import Batch, Ints
from engine_adapter.simulated.blocks import KvBlocks
from engine_adapter.simulated.preempting import discard
from engine_adapter.simulated.request import SimulatedRequest


def serve_in_order(
    batch: Batch, kv: KvBlocks, plan: BoardPlan | None, budget: int
) -> tuple[Ints, list[SimulatedRequest]]:
    """Sorts the batch, best first, and gives each request its chunk; where KV blocks run out, the last one goes.

    Returns chunks [N] of those that stay, in tokens, and who went.
    """
    batch.keep(_best_first(batch, plan))
    missing = batch.missing().tolist()
    chunks: list[int] = []
    evicted: list[SimulatedRequest] = []
    while len(chunks) < len(batch):
        row = len(chunks)
        chunk = min(missing[row], budget)
        computed = int(batch.computed[row])
        blocks = kv.count(computed + chunk) - kv.count(computed)
        if blocks > kv.free:
            evicted.append(discard(len(batch) - 1, batch, kv))
            continue
        kv.take(blocks)
        budget -= chunk
        chunks.append(chunk)
    return np.array(chunks, np.int64), evicted


def _best_first(batch: Batch, plan: BoardPlan | None) -> Ints:
    """Rows: those that decode before those in prefill, lest a long prompt takes the whole budget; by the plan among
    them, those that it does not name last; then who came first."""
    position = {} if plan is None else {handle: index for index, handle in enumerate(plan.handles.tolist())}
    arrival_s = np.array([request.arrival_s for request in batch.requests])
    ranks = np.array([position.get(request.handle, len(position)) for request in batch.requests])
    in_prefill = (batch.missing() > 1) & (plan is not None)
    order: Ints = np.lexsort((arrival_s, ranks, in_prefill))
    return order
