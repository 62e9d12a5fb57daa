"""The lot is fair, balanced, and the same for everybody."""

from collections import Counter

import pytest

from scheduler_service.experiments.assignment import arm_of
from tests.unit.experiments.designs import design

THREE = [{"name": "a"}, {"name": "b", "policy": {"policy": "fcfs"}}, {"name": "c", "policy": {"policy": "srpt"}}]


@pytest.mark.parametrize("arms", [THREE[:2], THREE])
def test_each_group_has_every_arm_once(arms: list[dict[str, object]]):
    made = design(arms=arms, groups=50)
    names = [arm_of(made, "e0", block).name for block in range(made.blocks)]
    groups = [names[at : at + len(arms)] for at in range(0, len(names), len(arms))]
    assert all(sorted(group) == sorted(arm["name"] for arm in arms) for group in groups)


def test_all_orders_are_equally_likely_and_engines_know_nothing_of_each_other():
    made = design(arms=THREE, groups=600, engines=["e0", "e1"])
    orders: Counter[tuple[tuple[str, ...], ...]] = Counter()
    for group in range(600):
        one, other = (tuple(arm_of(made, e, 3 * group + at).name for at in range(3)) for e in made.engines)
        orders[one, other] += 1
    # 36 pairs of orders, 16.7 of each expected; 60 is a chance of 1e-14.
    assert len(orders) == 36
    assert max(orders.values()) < 60


def test_another_seed_or_name_draws_anew():
    def drawn(**more: object) -> list[str]:
        return [arm_of(made, "e0", block).name for made in [design(groups=40, **more)] for block in range(80)]

    assert drawn() == drawn()
    assert drawn() != drawn(seed=1)
    assert drawn() != drawn(name="other")


def test_a_shadow_arm_is_never_served():
    made = design(arms=[*THREE[:2], THREE[2] | {"shadow": True}])
    assert {arm_of(made, "e0", block).name for block in range(made.blocks)} == {"a", "b"}
