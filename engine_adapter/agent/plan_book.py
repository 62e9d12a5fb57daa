"""The newest plans, by number: when the engine says which one it follows, this tells what that one rested on."""

import time
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from prometheus_client import Histogram

from engine_adapter.agent.counters import Counters
from engine_adapter.agent.fail_open import FailOpen
from engine_adapter.board import NO_PREDICTION_AGE
from engine_adapter.records import Step
from sidecar.latency import BUCKETS_S

REMEMBERED_PLANS = 256
LONGEST_AGE_TOKENS = 1024
"""Prediction ages from here on share the histogram's last entry."""


@dataclass(frozen=True, slots=True)
class _Basis:
    handles: npt.NDArray[np.uint64]
    """[N], sorted."""
    predicted_at_ages: npt.NDArray[np.uint32]
    """[N]."""
    published_ns: int
    """Monotonic."""


class PlanBook:
    """Follows which plans are applied, and how old the predictions behind them are."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._plans: OrderedDict[int, _Basis] = OrderedDict()
        self._last_applied = 0
        self.age_histogram = np.zeros(LONGEST_AGE_TOKENS + 1, np.int64)
        """Entry a: how often a prediction was a tokens old when it was used."""
        self.age_tokens_sum = 0
        """Of all that were used; those older than the histogram's last entry count as that."""
        self.fail_open = FailOpen()
        self.plan_age_seconds = Histogram(
            "trail_agent_plan_age_seconds",
            "How long the plan that a step followed had been on the board",
            buckets=BUCKETS_S,
            registry=None,
        )

    def add(self, number: int, handles: npt.NDArray[np.uint64], predicted_at_ages: npt.NDArray[np.uint32]) -> None:
        """Remembers a plan that goes on the board now. Shapes [N]."""
        order = np.argsort(handles)
        self._plans[number] = _Basis(handles[order], predicted_at_ages[order], time.monotonic_ns())
        while len(self._plans) > REMEMBERED_PLANS:
            self._plans.popitem(last=False)

    def stepped(self, step: Step) -> None:
        """One step of the engine, under the plan whose number it carries."""
        counters = self._counters
        counters.steps += 1
        counters.preemptions_by_plan += step.preempted_by_plan
        counters.preemptions_by_engine += len(step.preempted) - step.preempted_by_plan
        if step.plan_number == 0:
            if len(step.running):
                counters.fail_open_steps += 1
                self.fail_open.stepped(step.monotonic_ns)
        elif step.plan_number != self._last_applied:
            counters.plans_applied += 1
            self._last_applied = step.plan_number
        basis = self._plans.get(step.plan_number)
        if basis is None:
            return
        self.plan_age_seconds.observe(max(step.monotonic_ns - basis.published_ns, 0) / 1e9)
        if len(basis.handles):
            self._use(basis, step)

    def clear(self) -> None:
        """The engine started anew; its counts go on."""
        self._plans.clear()

    def _use(self, basis: _Basis, step: Step) -> None:
        at = np.minimum(np.searchsorted(basis.handles, step.running), len(basis.handles) - 1)
        made_at = basis.predicted_at_ages[at]
        used = (basis.handles[at] == step.running) & (made_at != NO_PREDICTION_AGE)
        ages, made_at = step.ages[used].astype(np.int64), made_at[used].astype(np.int64)
        past_first = ages >= 2
        self._counters.predictions_used += len(ages)
        self._counters.predictions_used_past_first_token += int(past_first.sum())
        # Prompt-stage and prefill predictions are of age 0.
        self._counters.refined_predictions_used += int((past_first & (made_at >= 1)).sum())
        old = np.clip(ages - made_at, 0, LONGEST_AGE_TOKENS)
        self.age_histogram += np.bincount(old, minlength=LONGEST_AGE_TOKENS + 1)
        self.age_tokens_sum += int(old.sum())


def median_of(histogram: npt.NDArray[np.int64]) -> float | None:
    """The median of counted integers: entry i is how often i came. None where nothing came."""
    total = int(histogram.sum())
    if total == 0:
        return None
    below = np.cumsum(histogram)
    low, high = (int(np.searchsorted(below, rank, side="right")) for rank in ((total - 1) // 2, total // 2))
    return (low + high) / 2
