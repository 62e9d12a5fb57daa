"""Sends an experiment back to control where an arm breaks a guardrail."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from scheduler_service.experiments import guardrails, metrics
from scheduler_service.experiments.analysis.effects import deciding_effects
from scheduler_service.experiments.blocks import closed_blocks
from scheduler_service.experiments.counting import Counts
from scheduler_service.experiments.design import Arm
from scheduler_service.experiments.guardrails import Breach
from scheduler_service.experiments.record import Ending, Record
from scheduler_service.experiments.store import ExperimentStore


class Watch:
    """Every replica watches; the first that finds a breach decides for all."""

    def __init__(self, store: ExperimentStore) -> None:
        self._store = store
        self._log = structlog.get_logger("experiments")

    def at_once(self, record: Record, counts: Counts, waits_s: Mapping[str, float], now_s: float) -> Ending | None:
        """By what this replica sees, in the middle of a block: why the experiment has to go back; None: it has not."""
        rails, name = record.design.guardrails, record.design.name
        for arm in record.design.live_arms[1:]:
            waited_s = max((_waited_s(record, arm, *each, now_s) for each in waits_s.items()), default=0.0)
            tallies = counts.of_arm(name, arm.name)
            breach = guardrails.of_blocks(rails, tallies) or guardrails.of_waiting(rails, waited_s)
            if breach is not None:
                return self._ending(record, arm.name, breach, now_s)
        return None

    async def by_blocks(self, record: Record, now_s: float) -> Ending | None:
        """By all that was counted, here and elsewhere. Raises RedisError, OSError and TimeoutError."""
        for effect in deciding_effects(record.design, await closed_blocks(self._store, record, now_s)):
            for bound, value in (("estimate", effect.estimate), ("low", effect.low), ("high", effect.high)):
                metrics.EFFECT.labels(record.design.name, effect.arm, effect.figure, bound).set(value)
            breach = guardrails.of_effect(record.design.guardrails, effect)
            if breach is not None:
                return self._ending(record, effect.arm, breach, now_s)
        return None

    def _ending(self, record: Record, arm: str, breach: Breach, now_s: float) -> Ending:
        metrics.GUARDRAIL_STOPS.labels(record.design.name, arm, breach.guardrail).inc()
        self._log.warning("guardrail: back to control", experiment=record.design.name, arm=arm, reason=breach.says)
        return Ending(now_s, f"arm {arm}: {breach.says}", arm, breach.guardrail)


def _waited_s(record: Record, arm: Arm, engine_id: str, wait_s: float, now_s: float) -> float:
    """How long a request of the engine has waited under this arm; 0 where the engine serves another."""
    serving, timeline = record.serving(engine_id, now_s), record.timeline
    if serving is None or timeline is None or serving[0] != arm:
        return 0.0
    return min(wait_s, now_s - timeline.start_s - serving[1] * record.design.block_s)
