"""Tells Prometheus how one engine stands and how its requests ended."""

from __future__ import annotations

import math
import time
from typing import get_args

from scheduler_service import metrics
from scheduler_service.choice import PolicyChoice
from scheduler_service.hindsight import Hindsight, Verdict
from scheduler_service.messages import Delta, Outcome
from scheduler_service.planner import Plan
from scheduler_service.state import EngineState

LOOK_EVERY_S = 0.5
_GAUGES = (
    metrics.REQUESTS, metrics.RUNNING, metrics.WAITING, metrics.KV_USED, metrics.RECOMPUTE, metrics.LONGEST_WAIT,
    metrics.STARVATION_MARGIN, metrics.PREEMPTION_LIMIT, metrics.ADMIT_TOGETHER,
)  # fmt: skip


class EngineWatch:
    """One engine's. What takes more than counting is looked at twice a second."""

    def __init__(self, engine_id: str, state: EngineState) -> None:
        self._engine_id, self._state = engine_id, state
        self._hindsight = Hindsight(state)
        self._look_at_s = -math.inf
        self._arm: tuple[str, str] | None = None
        # There before the first one, so that the first one is seen as a rise.
        for verdict in get_args(Verdict):
            metrics.PREEMPTIONS_JUDGED.labels(engine_id, verdict)
        for verdict in ("paid", "unpaid"):
            metrics.PREEMPTION_SECONDS.labels(engine_id, verdict)

    def reported(self, delta: Delta) -> None:
        """A report came; called before the state takes it in."""
        if delta.preempted and delta.step > self._state.step:
            self._hindsight.preempted(delta.preempted)

    def planned(self, plan: Plan) -> None:
        """A plan was made."""
        self._hindsight.planned(plan.preemptions)
        metrics.PLAN_REQUESTS.observe(plan.handles.size)
        metrics.PREEMPTIONS.labels(self._engine_id).inc(len(plan.preemptions))
        metrics.PREEMPTION_LIMIT.labels(self._engine_id).set(plan.preemption_limit)
        metrics.ADMIT_TOGETHER.labels(self._engine_id).set(plan.admit_together)
        metrics.FALLBACKS.labels(self._engine_id).inc(plan.fallbacks)

    def finished(self, outcome: Outcome) -> None:
        """A request ended."""
        metrics.FINISHED.labels(self._engine_id, outcome.reason).inc()
        if outcome.whole:
            metrics.LATENCY.labels(self._engine_id).observe(outcome.latency_s)
            metrics.TIME_TO_FIRST_TOKEN.labels(self._engine_id).observe(outcome.time_to_first_token_s)
        for judged in self._hindsight.finished(outcome, self._state.capacity.places):
            metrics.PREEMPTIONS_JUDGED.labels(self._engine_id, judged.verdict).inc()
            if judged.net_s:
                metrics.PREEMPTION_SECONDS.labels(self._engine_id, judged.verdict).inc(abs(judged.net_s))

    def look(self, choice: PolicyChoice, now_s: float) -> None:
        """How the engine stands, where the last look was long enough ago; ``now_s`` is monotonic."""
        if now_s < self._look_at_s:
            return
        self._look_at_s = now_s + LOOK_EVERY_S
        self._tell_arm((choice.policy, choice.predictor))
        state, engine = self._state, self._engine_id
        running = int(state.requests.rows["running"].sum())
        blocks = state.capacity.kv_blocks
        metrics.REQUESTS.labels(engine).set(len(state.requests))
        metrics.RUNNING.labels(engine).set(running)
        metrics.WAITING.labels(engine).set(len(state.requests) - running)
        metrics.KV_USED.labels(engine).set(1 - state.free_kv_blocks / blocks if blocks else math.nan)
        metrics.RECOMPUTE.labels(engine).set(state.recompute_share)
        self._tell_waiting(choice.overtaking_s or math.inf)

    def gone(self) -> None:
        """The engine is not planned for any more: what stood is taken back, what was counted stays."""
        self._look_at_s = math.inf
        for gauge in _GAUGES:
            gauge.remove_by_labels({"engine": self._engine_id})
        self._tell_arm(None)

    def _tell_waiting(self, bound_s: float) -> None:
        longest = self._state.longest_waiting()
        wait_s, margin_s = 0.0, bound_s
        if longest is not None:
            wait_s, margin_s = max(time.time() - longest[0], 0.0), _margin_s(bound_s, longest[1])
        metrics.LONGEST_WAIT.labels(self._engine_id).set(wait_s)
        metrics.STARVATION_MARGIN.labels(self._engine_id).set(margin_s)

    def _tell_arm(self, arm: tuple[str, str] | None) -> None:
        if arm == self._arm:
            return
        if self._arm is not None:
            metrics.ARM.remove(self._engine_id, *self._arm)
        if arm is not None:
            metrics.ARM.labels(self._engine_id, *arm).set(1)
        self._arm = arm


def _margin_s(bound_s: float, overtaken_s: float) -> float:
    return bound_s if math.isinf(bound_s) else max(bound_s - overtaken_s, 0.0)
