"""What `--arm` and `--shadow` name: NAME=own, NAME=POLICY:key=value:..., NAME=artefact:NAME."""

from __future__ import annotations

from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from scheduler_service.choice import PolicyChoice
from scheduler_service.experiments.design import Arm
from scheduler_service.policies import POLICIES
from sidecar.cli.ab.errors import AbError
from sidecar.cli.simulate.arms import SHORT
from sidecar.errors import InvalidField

OWN, ARTEFACT = "own", "artefact"


def parse_arm(text: str, *, shadow: bool = False) -> Arm:
    """Raises AbError for a policy, key or value that there is not."""
    option = "--shadow" if shadow else "--arm"
    name, equals, spec = text.partition("=")
    if not name or not equals or not spec:
        raise AbError(f"{option} {text}: not NAME={OWN}, NAME=POLICY:key=value or NAME={ARTEFACT}:NAME")
    first, *rest = spec.split(":")
    if first == ARTEFACT:
        if len(rest) != 1:
            raise AbError(f"{option} {text}: not NAME={ARTEFACT}:NAME")
        return Arm(name=name, artefact=rest[0], shadow=shadow)
    if first != OWN and first not in POLICIES:
        raise AbError(f"{option} {text}: {first!r} is not {OWN}, {ARTEFACT} or one of {', '.join(POLICIES)}")
    policy: dict[str, Any] = {} if first == OWN else {"policy": first}
    for setting in rest:
        key, equals, value = setting.partition("=")
        if not equals:
            raise AbError(f"{option} {text}: {setting!r} is not key=value")
        policy[SHORT.get(key, key)] = _value(f"{option} {text}", SHORT.get(key, key), value)
    arm = Arm(name=name, policy=policy, shadow=shadow)
    try:
        arm.choice(PolicyChoice())
    except InvalidField as error:
        raise AbError(f"{option} {text}: {error}") from None
    return arm


def _value(option: str, key: str, value: str) -> Any:
    hints = get_type_hints(PolicyChoice)
    if key not in hints:
        known = ", ".join([*SHORT, *(each for each in hints if each != "policy")])
        raise AbError(f"{option}: there is no setting {key!r} (there are {known})")
    try:
        return TypeAdapter(hints[key]).validate_strings(value)
    except ValidationError as error:
        raise AbError(f"{option}: {key}: {value!r}: {error.errors()[0]['msg']}") from None
