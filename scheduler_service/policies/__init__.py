"""Scheduling policies by name; each is a file of its own."""

from scheduler_service.policies import boost, fair, fcfs, gittins, hrrn, kv_volume, priority, sjf, srpt, trail
from scheduler_service.policies.ranking import NO_GUARD, Policy, Ranking

POLICIES = {
    module.POLICY.name: module.POLICY
    for module in (fcfs, priority, sjf, srpt, trail, gittins, kv_volume, hrrn, boost, fair)
}

__all__ = ["NO_GUARD", "POLICIES", "Policy", "Ranking"]
