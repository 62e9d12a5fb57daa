"""When an arm does so badly that the experiment goes back to control by itself."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from scheduler_service.experiments.analysis.effects import Effect
from scheduler_service.experiments.design import Guardrails
from scheduler_service.experiments.figures import FIGURES
from scheduler_service.experiments.tally import Tally

LEAST_REQUESTS = 100
_Z = 4.0
"""Standard errors. It is looked at every second, so that twice a hundred looks may not add up to a false alarm."""


@dataclass(frozen=True, slots=True)
class Breach:
    guardrail: str
    says: str


def of_blocks(rails: Guardrails, tallies: Iterable[Tally]) -> Breach | None:
    """By an arm's newest blocks, each by itself for the latency and all together for errors."""
    blocks = list(tallies)
    for block in blocks if rails.p99_latency_s else ():
        p99_s = block.latency_s.quantile(0.99)
        if p99_s is not None and block.latency_s.count >= LEAST_REQUESTS and p99_s > rails.p99_latency_s:
            text = f"p99 latency {p99_s:.3g} s in one block, above {rails.p99_latency_s:g} s"
            return Breach("p99_latency_s", text)
    requests, bad = sum(block.requests for block in blocks), sum(block.errors + block.aborts for block in blocks)
    if rails.error_rate and requests >= LEAST_REQUESTS and at_least(bad, requests) > rails.error_rate:
        return Breach("error_rate", f"{bad} of {requests} requests failed or were aborted, above {rails.error_rate:g}")
    return None


def of_waiting(rails: Guardrails, waited_s: float) -> Breach | None:
    """By the longest wait while the arm has served."""
    if not rails.waiting_s or waited_s <= rails.waiting_s:
        return None
    return Breach("waiting_s", f"a request has waited {waited_s:.3g} s, more than {rails.waiting_s:g} s")


def of_effect(rails: Guardrails, effect: Effect) -> Breach | None:
    """By the bound of the confidence sequence on the better side."""
    surely = effect.low if FIGURES[effect.figure].less_is_better else -effect.high
    if not rails.worse or surely <= rails.worse:
        return None
    return Breach("worse", f"{effect.figure} is worse than control's by at least {surely:.3g}, above {rails.worse:g}")


def at_least(count: int, of: int) -> float:
    """Lower bound of a share, four standard errors below it (Wilson, 1927)."""
    if not of:
        return 0.0
    share, z2 = count / of, _Z**2
    middle = share + z2 / (2 * of)
    half = _Z * math.sqrt(share * (1 - share) / of + z2 / (4 * of**2))
    return max((middle - half) / (1 + z2 / of), 0.0)
