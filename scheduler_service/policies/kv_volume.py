"""Smallest KV volume first: memory times the time it will be held, for engines that memory limits.

A request of P + a tokens with R to come holds, until its end, the sum of P + a + 1 .. P + a + R tokens of KV memory
for a step each: R (P + a) + R (R + 1) / 2 token-steps. Told in seconds: for how long that would fill the whole memory.
"""

from __future__ import annotations

from scheduler_service.pairing import Lengths
from scheduler_service.policies.ranking import Policy, Ranking
from scheduler_service.view import EngineView
from scheduler_service.work import Work

_REQUESTS = 64


def rank(view: EngineView, lengths: Lengths, work: Work, limit: float) -> Ranking:
    """Seconds of the whole memory; every running request may lose its place."""
    held, to_come = view.prompt_tokens + view.age, lengths.remaining
    token_steps = to_come * (held + (to_come + 1) / 2)
    # An engine that did not tell its memory is taken to have room for 64 requests of this length.
    memory_tokens = view.capacity.kv_blocks * view.capacity.kv_block_tokens or _REQUESTS * (held + to_come)
    return Ranking.preemptive(token_steps * work.per_token / memory_tokens, view)


POLICY = Policy("kv_volume", rank, preempts=True, ages=True)
