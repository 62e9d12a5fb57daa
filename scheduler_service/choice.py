"""Which policy serves which engine, changeable while running."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scheduler_service.pairing import PAIRINGS, Evidence
from scheduler_service.policies import POLICIES
from sidecar.errors import InvalidField


@dataclass(frozen=True, slots=True)
class PolicyChoice:
    """A policy, the predictor it is paired with, and how freely it preempts.

    Raises InvalidField naming the field and what would be valid.
    """

    policy: str = "trail"
    predictor: str = "per_step"
    preemption_limit: float = 0.8
    preemption_margin: float = 1.0
    max_preemptions: int = 3

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise InvalidField("policy.policy", f"{self.policy!r} is not one of {', '.join(POLICIES)}")
        if self.predictor not in PAIRINGS:
            raise InvalidField("policy.predictor", f"{self.predictor!r} is not one of {', '.join(PAIRINGS)}")
        if not 0 <= self.preemption_limit <= 1:
            raise InvalidField("policy.preemption_limit", f"{self.preemption_limit} is not within 0 to 1")
        if not (math.isfinite(self.preemption_margin) and self.preemption_margin >= 0):
            raise InvalidField("policy.preemption_margin", f"{self.preemption_margin} is not 0 or more")
        if self.max_preemptions < 0:
            raise InvalidField("policy.max_preemptions", f"{self.max_preemptions} is not 0 or more")

    @property
    def evidence(self) -> Evidence:
        """What the predictor must not leave unanswered for plans to go on."""
        if not POLICIES[self.policy].uses_predictions:
            return Evidence.NONE
        return PAIRINGS[self.predictor].evidence


class PolicyBook:
    """The default choice and the engines that have another."""

    def __init__(self, default: PolicyChoice) -> None:
        self._default = default
        self._of_engine: dict[str, PolicyChoice] = {}

    def get(self, engine_id: str) -> PolicyChoice:
        """The choice that holds for an engine; an empty id asks for the default."""
        return self._of_engine.get(engine_id, self._default)

    def set(self, engine_id: str, choice: PolicyChoice) -> None:
        """Choose for one engine, or with an empty id for every engine, those known now included."""
        if engine_id:
            self._of_engine[engine_id] = choice
        else:
            self._default = choice
            self._of_engine.clear()
