"""c that follows the load: limited preemption is a trade against memory and recompute (docs/theory.md)."""

from __future__ import annotations

from scheduler_service.choice import PolicyChoice
from scheduler_service.view import EngineView

CALM_KV_SHARE, FULL_KV_SHARE = 0.8, 1.0
MOST_RECOMPUTE_SHARE = 0.1
_STEPS = 20


def preemption_limit(view: EngineView, choice: PolicyChoice) -> float:
    """c for this plan, in steps of a twentieth of its range.

    ``preemption_limit`` while memory is at ease and nothing is computed twice; from there down to
    ``least_preemption_limit`` as KV memory fills up, or a tenth of what is computed had been computed before.
    """
    least, most = choice.least_preemption_limit, choice.preemption_limit
    if least is None:
        return most
    memory = (view.kv_used_share - CALM_KV_SHARE) / (FULL_KV_SHARE - CALM_KV_SHARE)
    strain = min(max(memory, view.recompute_share / MOST_RECOMPUTE_SHARE, 0.0), 1.0)
    return most - (most - least) * round(strain * _STEPS) / _STEPS
