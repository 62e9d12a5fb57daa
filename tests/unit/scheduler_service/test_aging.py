"""What waiting is worth, and to whom."""

from dataclasses import replace

import numpy as np
import pytest

from scheduler_service.aging import AGINGS, Aging, aged
from scheduler_service.choice import PolicyChoice
from scheduler_service.planner import PlannerLimits, make_plan
from scheduler_service.policies import POLICIES
from scheduler_service.view import EngineView, Floats
from scheduler_service.work import Work
from tests.unit.scheduler_service.views import view_of, waiting


def keys(
    rows: list[tuple[float, float]],
    aging: Aging,
    aging_s: float | None = None,
    fair_share: float = 0.0,
    unit_s: float = 1.0,
    **engine: object,
) -> Floats:
    """What orders requests of these ranks and arrivals; their tenants are 0, 1, 2 ..."""
    view = view_of(*({"arrival_s": at, "tenant": tenant} for tenant, (_, at) in enumerate(rows)), **engine)
    if "tenant_service_s" not in engine:
        view = replace(view, tenant_service_s=np.zeros(len(rows)))
    ranks, none = np.array([rank for rank, _ in rows]), np.zeros(len(rows))
    return aged(ranks, view, Work(none, none, none, none, none, none, unit_s), aging, aging_s, fair_share)


def test_without_aging_ranks_stay_whatever_the_arrival():
    assert keys([(5.0, 100.0), (4.0, 900.0)], "none").tolist() == [5.0, 4.0]


@pytest.mark.parametrize("unit_s", [1.0, 0.02])
def test_exponential_aging_orders_as_chances_to_have_ended_that_shrink_while_they_wait(unit_s: float):
    rng = np.random.default_rng(0)
    rows = list(zip(rng.exponential(5.0, 50).tolist(), rng.uniform(0, 100, 50).tolist(), strict=True))
    shrunk = [(1 - np.exp(-rank_s / 15.0)) * np.exp(-(200.0 - at) / 15.0) for rank_s, at in rows]
    found = keys([(rank_s / unit_s, at) for rank_s, at in rows], "exponential", 15.0, unit_s=unit_s)
    assert np.argsort(found).tolist() == np.argsort(shrunk).tolist()


@pytest.mark.parametrize(("short_s", "aging_s"), [(0.1, 10.0), (0.01, 1.0), (0.5, 60.0)])
def test_exponential_aging_lets_a_short_one_ahead_of_a_long_one_up_to_t_ln_t_over_s_later(
    short_s: float, aging_s: float
):
    gap_s = aging_s * np.log(aging_s / short_s)
    long, soon, late = keys(
        [(50 * aging_s, 0.0), (short_s, gap_s - 0.1 * aging_s), (short_s, gap_s + 0.1 * aging_s)],
        "exponential", aging_s,
    )  # fmt: skip
    assert soon < long < late


def test_exponential_aging_hardly_lets_those_longer_than_t_ahead_of_each_other():
    earlier, shorter, shortest = keys([(500.0, 50.0), (50.0, 50.1), (50.0, 50.0)], "exponential", 10.0)
    assert shortest < earlier < shorter


@pytest.mark.parametrize("unit_s", [1.0, 0.02])
def test_linear_aging_takes_a_second_of_service_off_for_t_of_waiting(unit_s: float):
    early, shorter, longer = keys(
        [(10.0 / unit_s, 50.0), (7.9 / unit_s, 54.0), (8.1 / unit_s, 54.0)], "linear", 2.0, unit_s=unit_s
    )
    assert shorter < early < longer


def test_a_rank_of_nothing_can_be_aged():
    assert np.isfinite(keys([(0.0, 50.0), (-1.0, 60.0)], "exponential", 10.0)).all()


def weight_of_a_second(aging: Aging, **engine: object) -> float:
    early, late = keys([(1.0, 0.0), (1.0, 1.0)], aging, **engine)
    return float(late - early)


def test_exponential_t_that_nobody_set_follows_the_mean_service():
    fast, slow = (weight_of_a_second("exponential", mean_service_s=mean_s) for mean_s in (0.5, 20.0))
    assert fast == pytest.approx(40 * slow)
    assert weight_of_a_second("exponential", aging_s=8.0, mean_service_s=0.5) == pytest.approx(1 / 8)


def test_linear_t_has_no_unit_and_follows_nothing():
    fast, slow = (weight_of_a_second("linear", mean_service_s=mean_s) for mean_s in (0.5, 20.0))
    assert fast == slow > 0


@pytest.mark.parametrize("aging", AGINGS)
@pytest.mark.parametrize("policy", sorted(name for name, policy in POLICIES.items() if not policy.moves))
def test_the_order_of_those_who_wait_does_not_depend_on_the_time_of_the_plan(policy: str, aging: Aging):
    rng = np.random.default_rng(3)
    lengths, arrivals_s = rng.integers(1, 900, 20), rng.uniform(0, 6, 20)
    rows = [waiting(length, arrival_s=at) for length, at in zip(lengths, arrivals_s, strict=True)]
    choice = PolicyChoice(policy, aging=aging, deadline_slack_s=0.0)

    def order(now_s: float) -> list[int]:
        return make_plan(view_of(*rows, now_s=now_s), choice, PlannerLimits()).handles.tolist()

    assert order(6.0) == order(7.0) == order(1e5)


@pytest.mark.parametrize("policy", sorted(name for name, policy in POLICIES.items() if not policy.ages))
def test_policies_whose_ranks_are_no_service_do_not_age(policy: str):
    rows = [waiting(length, arrival_s=at) for length, at in ((500, 0.0), (3, 1.0), (40, 2.0))]

    def order(aging: Aging) -> list[int]:
        choice = PolicyChoice(policy, aging=aging, aging_s=0.01)
        return make_plan(view_of(*rows, now_s=9.0), choice, PlannerLimits()).handles.tolist()

    assert order("none") == order("linear") == order("exponential")


@pytest.mark.parametrize("aging", AGINGS)
@pytest.mark.parametrize("unit_s", [1.0, 0.5])
def test_a_fair_share_counts_a_served_tenants_requests_as_later(aging: Aging, unit_s: float):
    served = np.array([0.0, 3.0])
    rows = [(2.0, 100.0), (2.0, 100.0)]
    before, after = (keys(rows, aging, 4.0, share, unit_s, tenant_service_s=served) for share in (0.0, 2.0))
    if aging == "none":
        assert (after - before).tolist() == [0.0, 6.0 / unit_s]
    else:
        assert after == pytest.approx(keys([(2.0, 100.0), (2.0, 106.0)], aging, 4.0, unit_s=unit_s))


def test_a_fair_share_reaches_the_plan():
    rows = [waiting(50, tenant=1), waiting(60, tenant=0)]
    view: EngineView = view_of(*rows, tenant_service_s=np.array([0.0, 10.0]))

    def first(fair_share: float) -> int:
        choice = PolicyChoice("srpt", aging="none", fair_share=fair_share)
        return int(make_plan(view, choice, PlannerLimits()).handles[0])

    assert (first(0.0), first(0.001), first(1.0)) == (1, 1, 2)
