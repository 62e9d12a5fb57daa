"""KV blocks that stay free when a waiting request is admitted, for those that run will grow into them."""

from __future__ import annotations

from scheduler_service.view import EngineView
from scheduler_service.work import Work


def reserve_blocks(view: EngineView, work: Work, share: float) -> int:
    """Room for every running request to grow by ``share`` of a mean answer:

        reserve = running * min(share * mean answer, steps that bringing all of them back takes) / tokens of a block

    Without it an engine admits whoever fits into the blocks that are free this moment, and evicts at the next step,
    for each running request takes another block every so many steps. What is evicted is computed again, in a step that
    takes longer for having prefill, and everybody waits for it; so the reserve is never longer than that would take,
    and where it costs nothing there is none.
    0 while nobody runs, or where the engine did not tell its blocks.
    """
    running = int(view.running.sum())
    if not (running and view.capacity.kv_blocks and view.capacity.kv_block_tokens):
        return 0
    return_steps = (float(work.recompute[view.running].sum()) + running * work.restart) / work.per_token
    growth_tokens = min(share * view.mean_output_tokens, return_steps)
    return round(running * growth_tokens / view.capacity.kv_block_tokens)
