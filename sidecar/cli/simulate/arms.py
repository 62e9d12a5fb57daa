"""What ``--policies`` names: ``NAME`` or ``NAME:key=value:key=value``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from scheduler_service.choice import PolicyChoice
from scheduler_service.planner import PlannerLimits
from scheduler_service.policies import POLICIES
from sidecar.cli.simulate.errors import SimulateError
from sidecar.errors import InvalidField

SHORT = {"c": "preemption_limit", "margin": "preemption_margin"}
"""Short names of fields."""
PLAIN = {
    "aging": "none",
    "overtaking_s": 0.0,
    "preemption_ratio": 1.0,
    "preemption_margin": 0.0,
    "max_preemptions": 1_000_000,
    "kv_reserve": 0.0,
    "gathering": 0.0,
}
"""A policy and nothing else: no aging, no bound, no test of whether a preemption pays, no KV memory kept free, nobody
admitted later than can be."""
NAMED: Mapping[str, Mapping[str, Any]] = {
    "fcfs": {"policy": "fcfs", "kv_reserve": 0.0, "gathering": 0.0},
    "default": {},
    "oracle": {"policy": "srpt", "predictor": "oracle", **PLAIN},
    "paper": {"policy": "trail", "preemption_limit": 0.8, "unit": "tokens", **PLAIN},
}
ENGINE = "engine"
"""The engine's own order: no scheduler at all."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One policy of a comparison; without a ``choice`` the engine goes its own way."""

    name: str
    choice: PolicyChoice | None
    limits: PlannerLimits

    @property
    def sees_true_lengths(self) -> bool:
        """Whether requests declare their true lengths, as only a policy paired with the oracle may know them."""
        return self.choice is not None and self.choice.predictor == "oracle"


def policy_names() -> list[str]:
    """Every NAME."""
    return [*NAMED, ENGINE, *(name for name in POLICIES if name not in NAMED)]


def parse_arm(text: str) -> Arm:
    """Reads one entry; keys are fields of ``PolicyChoice`` and ``PlannerLimits``, or ``c`` and ``margin``.

    Raises:
        SimulateError: an unknown policy or key, or a value that it cannot have.
    """
    name, *settings = text.split(":")
    if name not in policy_names():
        raise SimulateError(f"--policies {text}: {name!r} is not one of {', '.join(policy_names())}")
    if name == ENGINE:
        if settings:
            raise SimulateError(f"--policies {text}: {ENGINE} takes no settings")
        return Arm(text, None, PlannerLimits())
    named = NAMED.get(name, {"policy": name})
    limits = {key: value for key, value in named.items() if key in _hints(PlannerLimits)}
    given = {key: value for key, value in named.items() if key not in limits}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise SimulateError(f"--policies {text}: {setting!r} is not key=value")
        target = limits if _field(text, key) in _hints(PlannerLimits) else given
        target[_field(text, key)] = _value(text, key, value)
    try:
        return Arm(text, PolicyChoice(**given), PlannerLimits(**limits))
    except InvalidField as error:
        key = error.field.rpartition(".")[2]
        short = next((short for short, long in SHORT.items() if long == key), key)
        raise SimulateError(f"--policies {text}: {short}: {str(error).partition(': ')[2]}") from None


def parse_arms(text: str) -> list[Arm]:
    """Reads a list with commas.

    Raises:
        SimulateError: it is empty, names one twice, or an entry is wrong.
    """
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    if not entries:
        raise SimulateError("--policies: names none")
    twice = [entry for index, entry in enumerate(entries) if entry in entries[:index]]
    if twice:
        raise SimulateError(f"--policies: {twice[0]} is named twice")
    return [parse_arm(entry) for entry in entries]


def _hints(of: type) -> dict[str, Any]:
    hints = get_type_hints(of)
    return {field.name: hints[field.name] for field in fields(of)}


def _field(text: str, key: str) -> str:
    known = _hints(PolicyChoice) | _hints(PlannerLimits)
    name = SHORT.get(key, key)
    if name not in known or name == "policy":
        names = ", ".join([*SHORT, *(each for each in known if each != "policy")])
        raise SimulateError(f"--policies {text}: unknown key {key!r} (known are {names})")
    return name


def _value(text: str, key: str, value: str) -> Any:
    hint = (_hints(PolicyChoice) | _hints(PlannerLimits))[_field(text, key)]
    try:
        return TypeAdapter(hint).validate_strings(value)
    except ValidationError as error:
        raise SimulateError(f"--policies {text}: {key}: {value!r}: {error.errors()[0]['msg']}") from None
