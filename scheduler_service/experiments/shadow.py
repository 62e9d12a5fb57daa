"""Plans that a shadow arm would have made, beside those that were sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from scheduler_service.choice import PolicyChoice
from scheduler_service.planner import Plan, PlannerLimits, make_plan
from scheduler_service.view import EngineView

PERIOD_S = 1.0
COMPARED = 256
"""Of the order that was sent, so many from its head are compared."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """`agreement` is Kendall's tau of the two orders over requests that both plans name; 1: the same order."""

    experiment: str
    arm: str
    step: int
    requests: int
    agreement: float
    same_first: int
    """1 where both would admit the same waiting request first, or nobody waits."""
    preemptions: int
    preemptions_sent: int

    def fields(self) -> dict[str, str | int | float]:
        return asdict(self)


def comparison_of(found: Mapping[bytes, bytes]) -> Comparison | None:
    """What `Comparison.fields` became in the store; None for anything else."""
    try:
        text = {name.decode(): value.decode() for name, value in found.items()}
        return Comparison(
            text["experiment"],
            text["arm"],
            int(text["step"]),
            int(text["requests"]),
            float(text["agreement"]),
            int(text["same_first"]),
            int(text["preemptions"]),
            int(text["preemptions_sent"]),
        )
    except (KeyError, ValueError):
        return None


def compare(experiment: str, arm: str, view: EngineView, sent: Plan, shadow: Plan) -> Comparison:
    """Both plans are of this view."""
    common, of_sent, of_shadow = np.intersect1d(sent.handles, shadow.handles, return_indices=True)
    waiting = view.handle[~view.running]
    first = [next(iter(plan.handles[np.isin(plan.handles, waiting)].tolist()), None) for plan in (sent, shadow)]
    return Comparison(
        experiment,
        arm,
        view.step,
        int(common.size),
        agreement(of_sent, of_shadow),
        int(first[0] == first[1]),
        len(shadow.preemptions),
        len(sent.preemptions),
    )


def agreement(one: npt.NDArray[np.intp], other: npt.NDArray[np.intp]) -> float:
    """Kendall's tau of two orders of the same things without ties; 1 for fewer than two."""
    if one.size < 2:
        return 1.0
    places = other[np.argsort(one)][:COMPARED]
    swapped = sum(int((places[:at] > place).sum()) for at, place in enumerate(places.tolist()))
    return 1 - 4 * swapped / (places.size * (places.size - 1))


class ShadowPlanner:
    """Plans for the shadow arms of one engine, once a second at most."""

    def __init__(self, limits: PlannerLimits, write: Callable[[Comparison], None]) -> None:
        self._limits = limits
        self._write = write
        self._next_s = 0.0

    def planned(
        self, experiment: str, arms: dict[str, PolicyChoice], view: EngineView, sent: Plan, now_s: float
    ) -> None:
        if now_s < self._next_s:
            return
        self._next_s = now_s + PERIOD_S
        for arm, choice in arms.items():
            self._write(compare(experiment, arm, view, sent, make_plan(view, choice, self._limits)))
