"""Taking running requests out of the batch."""

from __future__ import annotations

import numpy as np

from engine_adapter.board import BoardPlan
from engine_adapter.records import Engine
from engine_adapter.simulated.batch import Batch
from engine_adapter.simulated.blocks import KvBlocks
from engine_adapter.simulated.request import SimulatedRequest
from engine_adapter.simulated.waiting import WaitingRequests


def preempt(
    plan: BoardPlan, batch: Batch, queue: WaitingRequests, kv: KvBlocks, capacity: Engine
) -> list[SimulatedRequest]:
    """Carries out those preemptions of a new plan whose guard holds and whose beneficiary still needs the place;
    returns the victims, which wait nowhere yet."""
    victims: list[SimulatedRequest] = []
    free_slots = capacity.max_running_requests - len(batch)
    rows = zip(plan.victims.tolist(), plan.guards.tolist(), plan.beneficiaries.tolist(), strict=True)
    for victim_handle, only_if_age_below, beneficiary_handle in rows:
        at = np.flatnonzero(batch.handles == np.uint64(victim_handle))
        beneficiary = queue.get(beneficiary_handle)
        if not at.size or beneficiary is None or batch.age[at[0]] >= only_if_age_below:
            continue
        if free_slots > 0 and kv.count(beneficiary.tokens) <= kv.free:
            free_slots -= 1
            continue
        victims.append(discard(int(at[0]), batch, kv))
    return victims


def discard(row: int, batch: Batch, kv: KvBlocks) -> SimulatedRequest:
    """Takes one request out of the batch; its KV entries go, unless the prefix cache keeps them for a while."""
    stay = np.ones(len(batch), np.bool_)
    stay[row] = False
    computed = int(batch.computed[row])
    (victim,) = batch.keep(stay)
    victim.preemptions += 1
    victim.parked_lost_tokens = computed
    kv.release(victim, computed)
    return victim
