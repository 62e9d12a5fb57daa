"""What is swept: one setting at a time, all others as in the default policy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from scheduler_service.aging import MEAN_SERVICES
from scheduler_service.choice import PolicyChoice

DEFAULT = "default"
BASELINE = "fcfs"
LIMITS = (0.0, 0.2, 0.5, 0.8, 1.0)
MARGINS = (0.0, 0.5, 1.0, 2.0, 4.0)
AGING_FACTORS = (0.5, 0.7, 1.0, 1.4, 2.0, 4.0)
"""T as multiples of the default's."""
EVERY = (1, 2, 4, 8, 16)
LEAST_AGING_S = 1e-3


@dataclass(frozen=True, slots=True)
class Variant:
    """What one run of the sweep is of: settings that differ from the default's, predicted in every ``every``-th step.
    The default has none."""

    settings: tuple[tuple[str, float], ...] = ()
    every: int = 1

    @property
    def arm(self) -> str:
        """As ``trail simulate --policies`` names it."""
        return ":".join([DEFAULT, *(f"{name}={value:g}" for name, value in self.settings)])

    @property
    def shown(self) -> str:
        """Its settings in words."""
        return " and ".join(f"{name} = {value:g}" for name, value in self.settings)


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a knob, and how it is written."""

    shown: str
    variant: Variant


@dataclass(frozen=True, slots=True)
class Knob:
    """A setting and the values that are tried, in rising order, the default's among them."""

    name: str
    label: str
    points: tuple[Point, ...]


def policy_knobs(mean_service_s: float) -> tuple[Knob, ...]:
    """c, the margin and aging.

    ``mean_service_s`` is what a request takes when it runs (``service_time``). Aging's T is tried at multiples of the
    default's share of it: T = factor * MEAN_SERVICES * mean service, about. The default's own T, unset, follows what
    the scheduler measures as it goes; in an overload, in which mostly short requests finish, that is up to a third
    less, so its place among the others is roughly its own.
    """
    choice = PolicyChoice()
    return (
        _knob("c", "c, limit of preemption", "preemption_limit", LIMITS, choice.preemption_limit),
        _knob("margin", "margin of preemption", "preemption_margin", MARGINS, choice.preemption_margin),
        Knob("aging", "aging, T in mean services", tuple(_aging(factor, mean_service_s) for factor in AGING_FACTORS)),
    )


def every_knob() -> Knob:
    """K: the predictor is asked in every K-th step."""
    return Knob("K", "K, steps to a prediction", tuple(Point(f"{every}", Variant(every=every)) for every in EVERY))


def _knob(name: str, label: str, setting: str, values: Iterable[float], default: float) -> Knob:
    tried = sorted({*values, default})
    points = (Point(f"{each:g}", Variant() if each == default else Variant(((setting, each),))) for each in tried)
    return Knob(name, label, tuple(points))


def _aging(factor: float, mean_service_s: float) -> Point:
    services = factor * MEAN_SERVICES
    if factor == 1:
        return Point("unset", Variant())
    seconds = float(f"{max(services * mean_service_s, LEAST_AGING_S):.4g}")
    return Point(f"{services:g}", Variant((("aging_s", seconds),)))
