"""Scheduling policies by name; each is a file of its own."""

from scheduler_service.policies import fcfs, sjf, srpt, trail
from scheduler_service.policies.ranking import NO_GUARD, Policy, Ranking

POLICIES = {module.POLICY.name: module.POLICY for module in (fcfs, sjf, srpt, trail)}

__all__ = ["NO_GUARD", "POLICIES", "Policy", "Ranking"]
