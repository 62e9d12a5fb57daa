"""One engine's Coordinate stream: what is known of the engine, and the loop that plans when it changed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import grpc
import structlog

from scheduler_service import metrics
from scheduler_service.experiments.live import LiveExperiments
from scheduler_service.experiments.shadow import Comparison, ShadowPlanner
from scheduler_service.freshness import Freshness
from scheduler_service.incremental import IncrementalPlanner
from scheduler_service.messages import Declaration, Delta, Finished, Open, PublishedMessage, Snapshot
from scheduler_service.outcomes import OutcomeLog
from scheduler_service.pairing import Evidence
from scheduler_service.planner import Plan
from scheduler_service.settings import SchedulerSettings
from scheduler_service.state import EngineState
from scheduler_service.watching import EngineWatch
from sidecar import log
from sidecar.errors import Refused
from sidecar.tracing import Span, Tracing
from sidecar.waiting import within


@dataclass(frozen=True, slots=True)
class NumberedPlan:
    """A plan on its way to the engine. `number` rises by 1 with each plan of a stream."""

    plan: Plan
    number: int
    ttl_ms: int
    traceparent: str = ""


class EngineSession:
    """Deltas and predictions come in, the newest plan goes out; changes meanwhile are taken together.

    Raises Refused where more requests are alive than one engine may have.
    """

    def __init__(
        self,
        opened: Open,
        choices: LiveExperiments,
        outcomes: OutcomeLog,
        settings: SchedulerSettings,
        tracing: Tracing | None = None,
    ) -> None:
        self.engine_id, self.epoch = opened.engine_id, opened.epoch
        self._settings = settings
        self.store_connected = False
        self._state = EngineState(opened.capacity, settings.assumptions, settings.tenant_weights)
        self._planner = IncrementalPlanner(self._state.requests, settings.limits)
        self._check_room(opened.requests, "open.requests")
        self._state.declare(opened.requests)
        self.watch = EngineWatch(opened.engine_id, self._state)
        self._log = structlog.get_logger("session")
        self._freshness = Freshness()
        self._choices = choices
        self._shadows = ShadowPlanner(settings.limits, self._compared)
        self._outcomes = outcomes
        self._changed, self._answered = asyncio.Event(), asyncio.Event()
        self._answers = True
        self._ended: asyncio.Future[Refused] = asyncio.get_running_loop().create_future()
        self._number = 0
        self._tracing = tracing or Tracing()
        self._since_s: float | None = None
        """When the first delta came that no plan rests on yet."""
        self._spans: dict[str, Span] = {}

    def apply(self, delta: Delta) -> None:
        """Take in a delta. Raises Refused where it is another writer's or there are too many requests."""
        if delta.epoch != self.epoch:
            raise Refused(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"delta.epoch: {delta.epoch} is not this stream's {self.epoch}",
            )
        self._check_room(delta.arrived, "delta.arrived")
        self.watch.reported(delta)
        applied = self._state.apply(delta)
        metrics.DELTAS.labels(self.engine_id, "stale" if applied.stale else "applied").inc()
        if applied.stale:
            return
        span = self._tracing.follow("step", delta.traceparent) if delta.traceparent else None
        if span is not None:
            self._spans["step"] = span
        if applied.unknown_handles:
            metrics.UNKNOWN_HANDLES.labels(self.engine_id).inc(applied.unknown_handles)
        with log.within(span):
            for finished in applied.finished:
                self._finish(finished)
        now_s = time.monotonic()
        self._freshness.on_delta(applied, now_s)
        self._since_s = self._since_s or now_s
        self._answered.clear()
        self._changed.set()

    def on_predictions(self, message: PublishedMessage) -> None:
        """The predictor spoke; only a message with usable rows is an answer."""
        if not self._state.apply_predictions(message):
            return
        self._freshness.on_predictions()
        if message.traceparent:
            self._spans["plan"] = self._tracing.follow("plan", message.traceparent)
        self._answers = True
        self._answered.set()
        self._changed.set()

    def on_snapshot(self, snapshot: Snapshot) -> None:
        """What the store holds; old news, so it says nothing about whether the predictor lives."""
        self._state.apply_snapshot(snapshot)
        self._changed.set()

    def on_store(self, connected: bool, reason: str) -> None:
        """The subscription was lost, or holds again."""
        self.store_connected = connected
        self._changed.set()

    def on_policy(self) -> None:
        """Another policy was chosen."""
        self._changed.set()

    def end(self, refused: Refused) -> None:
        """Have the stream end with this status."""
        if not self._ended.done():
            self._ended.set_result(refused)

    async def ended(self) -> Refused:
        """Wait until somebody ends the stream, and tell why."""
        return await asyncio.shield(self._ended)

    async def plans(self) -> AsyncIterator[NumberedPlan]:
        """Plans for ever: one when something changed, and one before the last would expire.

        What an engine reports is soon predicted anew, so one plan is made of both where that does not take too long.
        """
        renew_s = self._settings.plan_ttl_ms / 2000
        interval_s = self._settings.plan_interval_ms / 1000
        wait_s = self._settings.prediction_wait_ms / 1000
        while True:
            await within(renew_s, self._changed)
            if self._expects_predictions():
                await within(wait_s, self._answered)
                # Whoever did not answer this time (rows may come with every Kth step only) is not waited for again.
                self._answers = self._answered.is_set()
            self._changed.clear()
            planned = self.plan(time.monotonic())
            if planned is not None:
                since_s, spans = self._since_s, self._spans
                self._since_s = None
                if spans:
                    self._spans = {}
                yield planned
                # Whoever iterates has sent it by now.
                if since_s is not None:
                    metrics.STEP_TO_PLAN_SECONDS.observe(time.monotonic() - since_s)
                for span in spans.values():
                    span.end()
            await asyncio.sleep(interval_s)

    def plan(self, now_s: float) -> NumberedPlan | None:
        """A plan for the state as it is; None where nothing is to plan or nothing fresh to plan by."""
        choice = self._choices.get(self.engine_id)
        self.watch.look(choice, now_s)
        if self._state.step < 0 or not len(self._state.requests):
            return None
        ttl_ms = self._freshness.ttl_ms(choice.evidence, self._settings.plan_ttl_ms, now_s)
        if choice.evidence is not Evidence.NONE and not self.store_connected:
            self._withheld("store")
            return None
        if ttl_ms <= 0:
            self._withheld("unanswered")
            return None
        if self._since_s is not None:
            metrics.PLAN_WAIT_SECONDS.observe(now_s - self._since_s)
        with metrics.PLAN_SECONDS.time():
            view = self._state.view(time.time(), choice.overtaking_s)
            plan = self._planner.plan(view, choice)
        self._number += 1
        metrics.PLANS.labels(self.engine_id, choice.policy, choice.predictor).inc()
        self.watch.planned(plan)
        shadowed = self._choices.shadows(self.engine_id)
        if shadowed is not None:
            self._shadows.planned(*shadowed, view, plan, now_s)
        traced = self._spans.get("plan")
        with log.within(traced):
            self._tell_preemptions(plan)
        return NumberedPlan(plan, self._number, ttl_ms, traced.traceparent if traced else "")

    def _expects_predictions(self) -> bool:
        """Whether predictions of what was just reported are likely to come soon."""
        owed = self._freshness.owes(self._choices.get(self.engine_id).evidence)
        return owed and self._answers and self._state.is_behind()

    def _finish(self, finished: Finished) -> None:
        outcome, arm = finished.outcome, self._choices.finished(self.engine_id, finished)
        self._outcomes.add(self.engine_id, finished, self._choices.get(self.engine_id), arm)
        self.watch.finished(outcome)
        self._log.debug(
            "request ended", engine=self.engine_id, request_id=finished.request.request_id, reason=outcome.reason,
            output_tokens=outcome.output_tokens, latency_s=outcome.latency_s, preemptions=outcome.preemptions,
        )  # fmt: skip

    def _tell_preemptions(self, plan: Plan) -> None:
        for each in plan.preemptions:
            victim, beneficiary = (self._state.requests.declaration(one) for one in (each.victim, each.beneficiary))
            self._log.debug(
                "preemption planned", engine=self.engine_id, request_id=victim.request_id,
                beneficiary=beneficiary.request_id, only_if_age_below=each.only_if_age_below,
            )  # fmt: skip

    def longest_wait_s(self) -> float:
        """Of the requests that wait now; 0 where none does."""
        longest = self._state.longest_waiting()
        return 0.0 if longest is None else max(time.time() - longest[0], 0.0)

    def _compared(self, comparison: Comparison) -> None:
        self._choices.compared(self.engine_id, comparison)

    def _withheld(self, reason: str) -> None:
        metrics.PLANS_WITHHELD.labels(self.engine_id, reason).inc()

    def _check_room(self, requests: Sequence[Declaration], field: str) -> None:
        new = sum(request.handle not in self._state.requests for request in requests)
        alive, limit = len(self._state.requests) + new, self._settings.max_requests_per_engine
        if alive > limit:
            raise Refused(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{field}: {alive} living requests are too many (limit {limit})",
                retry_after_ms=1000,
            )
