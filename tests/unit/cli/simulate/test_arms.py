"""What --policies names."""

import pytest

from scheduler_service.choice import PolicyChoice
from sidecar.cli.simulate.arms import parse_arm, parse_arms
from sidecar.cli.simulate.errors import SimulateError


def test_default_is_what_a_scheduler_does_that_was_told_nothing() -> None:
    assert parse_arm("default").choice == PolicyChoice()


def test_the_papers_setting_has_nothing_of_ours() -> None:
    paper = parse_arm("paper:c=0.5")
    assert paper.limits.unit == "tokens"
    assert paper.choice == PolicyChoice("trail", "per_step", 0.5, 0.0, 1_000_000, "none", None, 0.0, 1.0)


def test_the_oracle_alone_is_told_true_lengths() -> None:
    oracle = parse_arm("oracle")
    assert oracle.choice is not None
    assert (oracle.choice.policy, oracle.choice.predictor, oracle.choice.aging) == ("srpt", "oracle", "none")
    assert oracle.sees_true_lengths
    assert not parse_arm("srpt").sees_true_lengths
    assert parse_arm("trail:predictor=oracle").sees_true_lengths


def test_settings_reach_the_choice_and_the_planners_limits() -> None:
    arm = parse_arm("trail:c=0.5:margin=2:max_preemptions_per_plan=7:unit=tokens")
    assert arm.choice is not None
    assert (arm.choice.preemption_limit, arm.choice.preemption_margin) == (0.5, 2.0)
    assert (arm.limits.max_preemptions_per_plan, arm.limits.unit) == (7, "tokens")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("trial", "'trial' is not one of fcfs, default, oracle, paper"),
        ("trail:c=1.5", "c: 1.5 is not within 0 to 1"),
        ("trail:c=-0.1", "c: -0.1 is not within 0 to 1"),
        ("trail:c=much", "c: 'much'"),
        ("trail:d=1", "unknown key 'd'"),
        ("trail:policy=fcfs", "unknown key 'policy'"),
        ("trail:unit=years", "unit: 'years'"),
        ("trail:predictor=crystal", "predictor: 'crystal' is not one of"),
        ("trail:c", "'c' is not key=value"),
        ("engine:c=1", "takes no settings"),
        ("fcfs,fcfs", "named twice"),
        (" , ", "names none"),
    ],
)
def test_what_names_no_policy_is_refused(text: str, says: str) -> None:
    with pytest.raises(SimulateError, match=says):
        parse_arms(text)
