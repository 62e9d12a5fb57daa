"""What queueing theory says of scheduling by predicted remaining time (docs/theory.md)."""

from scheduler_service.theory.joint import JointDensity, scaled
from scheduler_service.theory.mean_response import fcfs, limited, limited_grid, sjf, sprpt, srpt
from scheduler_service.theory.named import joint_named
from scheduler_service.theory.samples import empirical

__all__ = [
    "JointDensity",
    "empirical",
    "fcfs",
    "joint_named",
    "limited",
    "limited_grid",
    "scaled",
    "sjf",
    "sprpt",
    "srpt",
]
