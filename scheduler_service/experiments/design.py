"""What an experiment is: arms, engines, blocks of time, what decides, what stops it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from scheduler_service.choice import PolicyChoice
from scheduler_service.experiments.figures import FIGURES
from sidecar.errors import InvalidField

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
ENGINE = re.compile(r"[A-Za-z0-9._-]{1,128}")
LEAST_BLOCK_S = 1.0
LONGEST_S = 366 * 86400.0

_Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_AtLeast0 = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Arm(_Frozen):
    """A policy with its settings, or a predictor artefact."""

    name: str
    policy: dict[str, Any] = {}
    """Fields of `PolicyChoice` that this arm changes of what the engine has; empty: the engine's own policy."""
    artefact: str = ""
    """Predictor artefact of this arm; empty: the engine's own."""
    shadow: bool = False
    """Plans are made and written down, but the engine never follows them."""

    def choice(self, own: PolicyChoice) -> PolicyChoice:
        """The arm's policy on an engine whose own is `own`. Raises InvalidField."""
        return own.with_changes(self.policy)


class Guardrails(_Frozen):
    """Limits at which an experiment goes back to its control arm by itself; 0: none. Control is not judged by them."""

    p99_latency_s: _AtLeast0 = 0.0
    """Of an arm's requests in one block, with at least 100 of them."""
    error_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of an arm's requests that end in an error or are aborted; shown at 99 %."""
    waiting_s: _AtLeast0 = 0.0
    """Longest that a request waits while an arm serves (starvation)."""
    worse: _AtLeast0 = 0.0
    """By how much the deciding figure may be worse than control's, as a share, shown by the confidence sequence."""


class Design(_Frozen):
    """An experiment as it was created. `arms` begin with control, whose plans are the safe ones."""

    name: str
    arms: tuple[Arm, ...]
    engines: tuple[str, ...]
    block_s: _Above0
    """Seconds that an engine serves one arm."""
    washout_s: _Above0
    """Requests that arrive in the first or last so many seconds of a block do not count: they share the engine with
    another arm's."""
    groups: Annotated[int, Field(ge=1, le=100_000)]
    """Rounds: in each, every engine serves every arm for one block, in an order drawn for it."""
    figure: str = "mean_latency"
    """What decides, one of `FIGURES`."""
    alpha: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    """How often a difference may be claimed where there is none, however often one looks."""
    noise: _Above0 = 0.2
    """Standard deviation that is expected of the difference of two blocks (`pairs`): it only sets where the
    confidence sequence is narrowest."""
    guardrails: Guardrails = Guardrails()
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not NAME.fullmatch(self.name):
            raise InvalidField("name", f"{self.name[:70]!r} is not 1 to 64 characters of A-Z a-z 0-9 . _ -")
        if self.name == "engine":
            raise InvalidField("name", "'engine' is what the store calls an engine's place; choose another")
        _distinct("arms", [arm.name for arm in self.arms], NAME)
        if len(self.live_arms) < 2 and not (self.live_arms and self.shadow_arms):
            raise InvalidField("arms", "an experiment needs two, control first, or control and a shadow arm")
        if self.arms[0].shadow:
            raise InvalidField("arms", f"control ({self.arms[0].name!r}) cannot be a shadow arm")
        if not self.engines:
            raise InvalidField("engines", "names none")
        _distinct("engines", list(self.engines), ENGINE)
        if self.figure not in FIGURES:
            raise InvalidField("figure", f"{self.figure!r} is not one of {', '.join(FIGURES)}")
        if self.block_s < LEAST_BLOCK_S:
            raise InvalidField("block_s", f"{self.block_s:g} is too short", limit=f"at least {LEAST_BLOCK_S:g}")
        if self.block_s <= 2 * self.washout_s:
            text = f"{self.block_s:g} s are too short for a washout of {self.washout_s:g} s at both ends"
            raise InvalidField("block_s", text, limit=f"more than {2 * self.washout_s:g}")
        if self.duration_s > LONGEST_S:
            raise InvalidField("groups", f"the experiment would take {self.duration_s / 86400:.0f} days", limit="366")
        for arm in self.arms:
            if arm.artefact and arm.shadow:
                raise InvalidField("arms", f"{arm.name!r}: an artefact cannot be in shadow, only a policy can")
            arm.choice(PolicyChoice())
        if self.guardrails.waiting_s >= self.block_s:
            text = f"{self.guardrails.waiting_s:g} s cannot come about: an arm serves for {self.block_s:g} s at a time"
            raise InvalidField("guardrails.waiting_s", text, limit=f"below {self.block_s:g}")
        return self

    @property
    def live_arms(self) -> tuple[Arm, ...]:
        """Those that engines serve by turns."""
        return tuple(arm for arm in self.arms if not arm.shadow)

    @property
    def shadow_arms(self) -> tuple[Arm, ...]:
        return tuple(arm for arm in self.arms if arm.shadow)

    @property
    def control(self) -> Arm:
        return self.arms[0]

    @property
    def blocks(self) -> int:
        """Of each engine."""
        return self.groups * len(self.live_arms)

    @property
    def duration_s(self) -> float:
        return self.blocks * self.block_s


def design_of(given: dict[str, Any]) -> Design:
    """A checked design. Raises InvalidField naming the field and what would do."""
    try:
        return Design.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, InvalidField):
            raise cause from None
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidField(field, f"{first['msg']} (got {first.get('input')!r})") from None


def _distinct(field: str, names: list[str], form: re.Pattern[str]) -> None:
    for index, name in enumerate(names):
        if not form.fullmatch(name):
            raise InvalidField(field, f"{name[:140]!r} has other characters than A-Z a-z 0-9 . _ - or is too long")
        if name in names[:index]:
            raise InvalidField(field, f"{name!r} is named twice")
