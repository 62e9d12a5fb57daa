"""Designs that contradict themselves are refused, with the field and the fix."""

from typing import Any

import pytest

from sidecar.errors import InvalidField
from tests.unit.experiments.designs import design

OWN = {"name": "own"}


@pytest.mark.parametrize(
    ("more", "field", "says"),
    [
        ({"engines": []}, "engines", "names none"),
        ({"engines": ["a", "a"]}, "engines", "twice"),
        ({"engines": ["a b"]}, "engines", "a b"),
        ({"block_s": 20.0}, "block_s", "more than 20"),
        ({"block_s": 0.0}, "block_s", "greater than 0"),
        ({"block_s": float("nan")}, "block_s", "finite"),
        ({"washout_s": 50.0}, "block_s", "more than 100"),
        ({"arms": [OWN]}, "arms", "two"),
        ({"arms": [OWN, OWN]}, "arms", "twice"),
        ({"arms": [OWN | {"shadow": True}, {"name": "b"}]}, "arms", "control"),
        ({"arms": [OWN, {"name": "b", "policy": {"policy": "best"}}]}, "policy.policy", "'best' is not one of"),
        ({"arms": [OWN, {"name": "b", "policy": {"preemption_limit": 2.0}}]}, "policy.preemption_limit", "0 to 1"),
        ({"arms": [OWN, {"name": "b", "policy": {"speed": 1}}]}, "policy.speed", "no such setting"),
        ({"arms": [OWN, {"name": "b", "artefact": "x", "shadow": True}]}, "arms", "shadow"),
        ({"figure": "happiness"}, "figure", "mean_latency"),
        ({"alpha": 0.0}, "alpha", "greater than 0"),
        ({"groups": 0}, "groups", "greater than or equal to 1"),
        ({"groups": 100_000, "block_s": 10_000.0}, "groups", "days"),
        ({"guardrails": {"waiting_s": 100.0}}, "guardrails.waiting_s", "below 100"),
        ({"guardrails": {"error_rate": 2.0}}, "guardrails.error_rate", "less than or equal to 1"),
        ({"name": "a/b"}, "name", "a/b"),
        ({"name": "engine"}, "name", "another"),
        ({"colour": "red"}, "colour", "Extra"),
    ],
)
def test_what_contradicts_itself_is_refused_by_name(more: dict[str, Any], field: str, says: str):
    with pytest.raises(InvalidField) as refused:
        design(**more)
    assert refused.value.field == field
    assert says in str(refused.value)


def test_a_design_is_the_same_after_the_store():
    made = design(seed=3, guardrails={"worse": 0.2})
    assert type(made).model_validate_json(made.model_dump_json()) == made
