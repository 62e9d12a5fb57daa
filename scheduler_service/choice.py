"""Which policy serves which engine, changeable while running."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from scheduler_service.aging import AGINGS, Aging
from scheduler_service.pairing import PAIRINGS, Evidence
from scheduler_service.policies import POLICIES
from sidecar.errors import InvalidField


@dataclass(frozen=True, slots=True)
class PolicyChoice:
    """A policy, the predictor it is paired with, what waiting is worth, and how freely it preempts.

    Raises InvalidField naming the field and what would be valid.
    """

    policy: str = "trail"
    predictor: str = "per_step"
    preemption_limit: float = 0.8
    preemption_margin: float = 1.0
    max_preemptions: int = 3
    aging: Aging = "exponential"
    aging_s: float | None = None
    """What waiting weighs (`aging`); None: by the mean service."""
    overtaking_s: float = 60.0
    """Service that later arrivals may get before a waiting request, seconds of the engine; 0: no bound."""
    preemption_ratio: float = 4.0
    """A victim has at least this many times the service before it that its beneficiary has."""
    least_preemption_limit: float | None = None
    """Where c may fall to by itself as memory fills and recompute rises; None: c stays."""
    deadline_slack_s: float = 0.0
    """Requests that can just meet their deadline, with less than this to spare, go ahead; 0: deadlines do not count."""
    fair_share: float = 0.0
    """Seconds by which a request counts as later for each second that its tenant was served lately."""

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
        if self.aging not in AGINGS:
            raise InvalidField("policy.aging", f"{self.aging!r} is not one of {', '.join(AGINGS)}")
        least = self.least_preemption_limit
        if least is not None and not 0 <= least <= self.preemption_limit:
            raise InvalidField("policy.least_preemption_limit", f"{least} is not within 0 to preemption_limit")
        for name, at_least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= at_least):
                raise InvalidField(f"policy.{name}", f"{value} is not {at_least:g} or more")

    def with_changes(self, changes: Mapping[str, Any]) -> Self:
        """The same with these fields changed. Raises InvalidField."""
        names = [field.name for field in dataclasses.fields(self)]
        for name in changes:
            if name not in names:
                raise InvalidField(f"policy.{name}", f"there is no such setting: {', '.join(names)}")
        try:
            return dataclasses.replace(self, **changes)
        except TypeError as error:
            raise InvalidField("policy", f"{dict(changes)}: {error}") from None

    @property
    def evidence(self) -> Evidence:
        """What the predictor must not leave unanswered for plans to go on."""
        if not POLICIES[self.policy].uses_predictions:
            return Evidence.NONE
        return PAIRINGS[self.predictor].evidence


_LEAST = {"aging_s": 1e-3, "overtaking_s": 0.0, "preemption_ratio": 1.0, "deadline_slack_s": 0.0, "fair_share": 0.0}


class PolicyBook:
    """The default choice and the engines that have another."""

    def __init__(self, default: PolicyChoice) -> None:
        self._default = default
        self._of_engine: dict[str, PolicyChoice] = {}

    def get(self, engine_id: str) -> PolicyChoice:
        """The choice that holds for an engine; an empty id asks for the default."""
        return self._of_engine.get(engine_id, self._default)

    def replace(self, default: PolicyChoice, of_engine: Mapping[str, PolicyChoice]) -> None:
        """Forget all choices for these."""
        self._default, self._of_engine = default, dict(of_engine)

    def set(self, engine_id: str, choice: PolicyChoice) -> None:
        """Choose for one engine, or with an empty id for every engine, those known now included."""
        if engine_id:
            self._of_engine[engine_id] = choice
        else:
            self._default = choice
            self._of_engine.clear()
