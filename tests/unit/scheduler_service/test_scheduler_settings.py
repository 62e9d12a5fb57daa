"""The scheduler's policy from its environment."""

import pytest

from scheduler_service.choice import PolicyChoice
from scheduler_service.settings import SchedulerSettings
from sidecar.settings import load

PREFIX = "TRAIL_SCHEDULER_"
GIVEN: dict[str, str | float] = {
    "policy": "gittins",
    "predictor": "prompt_only",
    "preemption_limit": 0.7,
    "preemption_margin": 2.5,
    "max_preemptions": 3,
    "aging": "linear",
    "aging_s": 7.3,
    "overtaking_s": 41.7,
    "preemption_ratio": 5.9,
    "least_preemption_limit": 0.15,
    "deadline_slack_s": 1.7,
    "fair_share": 0.35,
}


def loaded(monkeypatch: pytest.MonkeyPatch, **environment: object) -> SchedulerSettings:
    for name, value in environment.items():
        monkeypatch.setenv(f"{PREFIX}{name.upper()}", str(value))
    return load(SchedulerSettings, [])


def test_the_whole_choice_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    assert loaded(monkeypatch, **GIVEN).choice == PolicyChoice(**GIVEN)


@pytest.mark.parametrize("name", GIVEN)
def test_each_setting_alone_leaves_the_others_at_their_defaults(name: str, monkeypatch: pytest.MonkeyPatch):
    assert loaded(monkeypatch, **{name: GIVEN[name]}).choice == PolicyChoice(**{name: GIVEN[name]})


def test_the_scheduler_and_the_choice_have_the_same_defaults():
    assert SchedulerSettings().choice == PolicyChoice()


def test_weights_of_tenants_are_json(monkeypatch: pytest.MonkeyPatch):
    assert loaded(monkeypatch, tenant_weights='{"a": 2, "b": 0.5}').tenant_weights == {"a": 2.0, "b": 0.5}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("policy", "fastest"),
        ("predictor", "magic"),
        ("aging", "quadratic"),
        ("aging_s", "0"),
        ("aging_s", "-1"),
        ("max_preemptions", "-1"),
        ("preemption_limit", "1.01"),
        ("least_preemption_limit", "1.01"),
        ("least_preemption_limit", "-0.01"),
        ("preemption_ratio", "0.99"),
        *((name, "-0.5") for name in ("preemption_margin", "overtaking_s", "deadline_slack_s", "fair_share")),
        *((name, wrong) for name, value in GIVEN.items() if isinstance(value, float) for wrong in ("nan", "inf")),
        ("tenant_weights", '{"a": 0}'),
        ("tenant_weights", '{"a": -1}'),
        ("tenant_weights", '{"a": NaN}'),
        ("tenant_weights", '{"a": Infinity}'),
    ],
)
def test_a_bad_value_ends_the_process_by_name(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as ended:
        loaded(monkeypatch, **{name: value})
    assert ended.value.code == 2
    assert f"setting {name}: " in capsys.readouterr().err


def test_a_least_limit_above_the_limit_ends_the_process_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit):
        loaded(monkeypatch, preemption_limit=0.2, least_preemption_limit=0.5)
    assert "least_preemption_limit" in capsys.readouterr().err
