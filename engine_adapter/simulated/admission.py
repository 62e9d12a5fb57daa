"""Who enters the batch in a step."""

from __future__ import annotations

from engine_adapter.records import Engine
from engine_adapter.simulated.batch import Batch
from engine_adapter.simulated.blocks import KvBlocks
from engine_adapter.simulated.request import SimulatedRequest
from engine_adapter.simulated.waiting import WaitingRequests


def admit(
    queue: WaitingRequests, batch: Batch, kv: KvBlocks, capacity: Engine, tokens_taken: int, reserve_blocks: int
) -> tuple[list[SimulatedRequest], list[int]]:
    """Moves waiting requests into the batch, best first, until slots, token budget or KV blocks are used up.

    As in vLLM, one whose whole sequence does not fit blocks those behind it, and so does one that would leave less than
    ``reserve_blocks`` free while others run. ``tokens_taken`` of the step's budget are spent. Returns who entered, and
    the chunk of tokens of each.
    """
    admitted: list[SimulatedRequest] = []
    chunks: list[int] = []
    budget = capacity.step_token_budget - tokens_taken
    for request in queue:
        if not budget or len(batch) == capacity.max_running_requests:
            break
        hits, free_hits = kv.cached(request)
        cached_tokens = hits * kv.block_tokens
        chunk = min(request.tokens - cached_tokens, budget)
        reserved = reserve_blocks if len(batch) else 0
        if kv.count(request.tokens) - hits > kv.free - free_hits - reserved:
            break
        kv.claim(request, hits)
        kv.take(kv.count(cached_tokens + chunk) - hits)
        queue.remove(request)
        batch.add(request, cached_tokens)
        request.cached_tokens += cached_tokens
        budget -= chunk
        admitted.append(request)
        chunks.append(chunk)
    return admitted, chunks
