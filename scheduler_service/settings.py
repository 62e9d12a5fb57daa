"""Settings of the scheduler service."""

from __future__ import annotations

from dataclasses import fields

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from scheduler_service.aging import Aging
from scheduler_service.choice import PolicyChoice
from scheduler_service.pairing import PAIRINGS
from scheduler_service.planner import PlannerLimits
from scheduler_service.policies import POLICIES
from scheduler_service.state import Assumptions
from scheduler_service.work import Unit
from sidecar.settings import ServerSettings


class SchedulerSettings(ServerSettings):
    """Orders an engine's requests by predicted remaining length and plans preemptions."""

    model_config = SettingsConfigDict(env_prefix="TRAIL_SCHEDULER_")

    port: int = Field(default=50062, ge=0, le=65535)
    """TCP port of the gRPC server; 0: any free one."""
    policy: str = "trail"
    """Policy of engines that nobody chose another for; `trail simulate --list-policies` names them."""
    predictor: str = "per_step"
    """Predictor that the policy is paired with: per_step, prompt_only, shuffled or oracle."""
    preemption_limit: float = Field(default=0.8, ge=0, le=1)
    """Limit c: a request past c times its predicted length is never preempted."""
    preemption_margin: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Preempt only where the expected gain exceeds the recompute cost by this factor."""
    max_preemptions: int = Field(default=3, ge=0)
    """Preemptions that one request may suffer."""
    aging: Aging = "exponential"
    """What waiting is worth: none, linear or exponential."""
    aging_s: float | None = Field(default=None, ge=1e-3, allow_inf_nan=False)
    """Seconds of waiting in which service counts e times less; linear: that weigh as much as one of service.
    Unset: 5.5 times the mean service of a request; linear: 1.5."""
    overtaking_s: float = Field(default=60.0, ge=0, allow_inf_nan=False)
    """Service that later arrivals may get before a waiting request, seconds of the engine; 0: no bound."""
    preemption_ratio: float = Field(default=4.0, ge=1, allow_inf_nan=False)
    """A victim has at least this many times the service before it that its beneficiary has."""
    least_preemption_limit: float | None = Field(default=None, ge=0, le=1)
    """Where c may fall to by itself as memory fills and recompute rises; unset: c stays."""
    deadline_slack_s: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Requests that can just meet their deadline, with less than this to spare, go ahead; 0: deadlines do not count."""
    fair_share: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Seconds by which a request counts as later for each second that its tenant was served lately; 0: none."""
    tenant_weights: dict[str, float] = Field(default_factory=dict)
    """Weight of each tenant in a fair share, as JSON; 1 for those that are not named."""
    max_preemptions_per_plan: int = Field(default=4, ge=0)
    """Preemptions that one plan may ask for."""
    waiting_head: int = Field(default=256, ge=1)
    """Waiting requests that a plan names; the rest keep the engine's order behind them."""
    unit: Unit = "seconds"
    """Unit of ranks: seconds of expected service, or tokens as in the paper."""
    kv_reserve: float = Field(default=0.2, ge=0, allow_inf_nan=False)
    """Share of a mean answer by which all that run can grow in KV memory before anybody else is admitted; 0: none."""
    gathering: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Requests that a full engine admits in one step, as a share of the number that costs least; 0: each at once."""
    plan_ttl_ms: int = Field(default=1000, ge=1)
    """Milliseconds that a plan may be used after the freshest evidence it rests on."""
    plan_interval_ms: int = Field(default=1, ge=0)
    """Least milliseconds between two plans for one engine; changes in between are taken together."""
    prediction_wait_ms: int = Field(default=10, ge=0)
    """Milliseconds that a plan waits for predictions of the step that was just reported, so as to serve both."""
    assumed_step_duration_ms: float = Field(default=20.0, gt=0, allow_inf_nan=False)
    """Duration of an engine step until one is measured."""
    assumed_prefill_tokens_per_s: float = Field(default=4000.0, gt=0, allow_inf_nan=False)
    """Prefill rate of an engine until it is measured."""
    assumed_output_tokens: float = Field(default=128.0, ge=1, allow_inf_nan=False)
    """Length of an unpredicted request's output until some have finished."""
    max_engines: int = Field(default=256, ge=1)
    """Engines that may be connected at the same time."""
    outcomes_max_entries: int = Field(default=100_000, ge=0)
    """Outcomes that the store keeps for each engine, about; 0: none are written."""

    @field_validator("policy")
    @classmethod
    def _known_policy(cls, value: str) -> str:
        return _one_of(value, tuple(POLICIES))

    @field_validator("tenant_weights")
    @classmethod
    def _positive_weights(cls, value: dict[str, float]) -> dict[str, float]:
        wrong = [name for name, weight in value.items() if not 0 < weight < float("inf")]
        if wrong:
            raise ValueError(f"the weight of {wrong[0]!r} must be more than 0")
        return value

    @field_validator("least_preemption_limit")
    @classmethod
    def _within_the_limit(cls, value: float | None, info: ValidationInfo) -> float | None:
        limit = info.data.get("preemption_limit")
        if value is not None and limit is not None and value > limit:
            raise ValueError(f"must be at most preemption_limit, which is {limit:g}")
        return value

    @field_validator("predictor")
    @classmethod
    def _known_predictor(cls, value: str) -> str:
        return _one_of(value, tuple(PAIRINGS))

    @property
    def choice(self) -> PolicyChoice:
        """The default policy."""
        return PolicyChoice(**{field.name: getattr(self, field.name) for field in fields(PolicyChoice)})

    @property
    def limits(self) -> PlannerLimits:
        """What bounds a plan."""
        return PlannerLimits(
            self.waiting_head, self.max_preemptions_per_plan, self.unit, self.kv_reserve, self.gathering
        )

    @property
    def assumptions(self) -> Assumptions:
        """What is taken for true of an engine until it is measured."""
        return Assumptions(
            self.assumed_step_duration_ms / 1000, self.assumed_prefill_tokens_per_s, self.assumed_output_tokens
        )


def _one_of(value: str, names: tuple[str, ...]) -> str:
    if value not in names:
        raise ValueError(f"must be one of {', '.join(names)}")
    return value
