"""Many steps at once, where each would only decode: exactly what single steps would have done."""

from __future__ import annotations

import numpy as np

from engine_adapter.simulated.batch import Ints
from engine_adapter.simulated.model import EngineModel


def quiet_steps(model: EngineModel) -> int:
    """How many steps from now on only decode, whatever arrives, as long as no other plan comes.

    In these, every running request makes a token, none ends, nobody enters (for nobody waits, or all slots are taken)
    and KV blocks suffice.
    """
    batch = model.batch
    full = len(batch) == model.capacity.max_running_requests
    if not len(batch) or (len(model.queue) and not full) or len(batch) > model.capacity.step_token_budget:
        return 0
    if (batch.missing() > 1).any() or (batch.age == 0).any():
        return 0
    steps = int((batch.output - batch.age).min()) - 1
    while steps > 0 and int(_blocks_after(model, np.array([steps]))[0]) > model.kv.blocks:
        steps //= 2
    return steps


def kv_blocks_during(model: EngineModel, steps: int) -> Ints:
    """[steps] blocks in use at the end of each of the next quiet steps."""
    return _blocks_after(model, np.arange(1, steps + 1))


def fast_forward(model: EngineModel, steps: int) -> None:
    """Executes so many quiet steps."""
    in_use = model.kv.blocks - model.kv.free
    model.kv.take(int(_blocks_after(model, np.array([steps]))[0]) - in_use)
    model.batch.age[:] += steps
    model.batch.computed[:] += steps


def _blocks_after(model: EngineModel, steps: Ints) -> Ints:
    """Blocks in use after each number of quiet steps."""
    size, computed = model.kv.block_tokens, model.batch.computed
    now = -(-computed // size)
    then = -(-(computed[None, :] + steps[:, None]) // size)
    in_use = model.kv.blocks - model.kv.free
    more: Ints = in_use + (then - now).sum(axis=1)
    return more
