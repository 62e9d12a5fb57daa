"""Two policies on one simulated engine: by turns, as an experiment does it, or request by request, as it should not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from scheduler_service.planner import Plan, PlannerLimits, make_plan
from scheduler_service.state import EngineState
from scheduler_service.view import Capacity, Handles
from sidecar.cli.simulate.arms import Arm
from sidecar.cli.simulate.planning import Planning
from sidecar.cli.simulate.predictions import Paths

NOBODY_WAITS_FOR = 2**31


class Switching(Planning):
    """Plans by the arm whose turn it is: `arm_at` tells it from the time."""

    def __init__(self, arm_at: Callable[[float], Arm], arm: Arm, capacity: Capacity, paths: Paths) -> None:
        super().__init__(arm, capacity, paths, every=1, delay_steps=1)
        self._arm_at = arm_at

    def _plan(self, state: EngineState, now_s: float) -> Plan:
        choice = self._arm_at(now_s).choice
        assert choice is not None  # noqa: S101
        return self._planner.plan(state.view(now_s, choice.overtaking_s), choice)


class Splitting(Planning):
    """Each request has an arm of its own, and its place within the arm is by the arm's policy. The arms' requests take
    turns, in proportion, which is as fair as a shared queue can be to both."""

    def __init__(self, treated: Handles, control: Arm, treatment: Arm, capacity: Capacity, paths: Paths) -> None:
        super().__init__(control, capacity, paths, every=1, delay_steps=1)
        self._treated = treated
        self._arms = control, treatment
        self._limits = PlannerLimits(waiting_head=NOBODY_WAITS_FOR)

    def _plan(self, state: EngineState, now_s: float) -> Plan:
        plans = []
        for arm in self._arms:
            assert arm.choice is not None  # noqa: S101
            plans.append(make_plan(state.view(now_s, arm.choice.overtaking_s), arm.choice, self._limits))
        by_control, by_treatment = plans
        places: dict[int, float] = {}
        for plan, theirs in ((by_control, False), (by_treatment, True)):
            ours = plan.handles[np.isin(plan.handles, self._treated) == theirs]
            places |= zip(ours.tolist(), ((np.arange(ours.size) + 0.5) / max(ours.size, 1)).tolist(), strict=True)
        place = np.array([places[handle] for handle in by_control.handles.tolist()])
        order = np.argsort(place, kind="stable")
        treated = set(self._treated.tolist())
        return dataclasses.replace(
            by_control,
            handles=by_control.handles[order],
            predicted_at_ages=by_control.predicted_at_ages[order],
            preemptions=tuple(each for each in by_treatment.preemptions if {each.victim, each.beneficiary} <= treated),
        )
