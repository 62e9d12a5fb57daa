"""The mutable picture of one engine: deltas and predictions go in, an `EngineView` comes out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from scheduler_service.borrowing import Lender
from scheduler_service.inbox import PredictionInbox
from scheduler_service.messages import (
    Applied,
    Declaration,
    Delta,
    Finished,
    Outcome,
    PublishedMessage,
    Running,
    Snapshot,
)
from scheduler_service.overtaking import Overtaking
from scheduler_service.pace import Pace, Steady
from scheduler_service.recompute import Recompute
from scheduler_service.table import RequestTable
from scheduler_service.tenants import TenantService
from scheduler_service.view import Capacity, EngineView, Ints


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What is taken for true of an engine until it is measured."""

    step_duration_s: float = 0.02
    prefill_tokens_per_s: float = 4000.0
    output_tokens: float = 128.0


class EngineState:
    """Everything known about one engine's living requests."""

    def __init__(
        self,
        capacity: Capacity,
        assumptions: Assumptions | None = None,
        tenant_weights: Mapping[str, float] | None = None,
    ) -> None:
        assumed = assumptions or Assumptions()
        self.capacity = capacity
        self.requests = RequestTable()
        self.step = -1
        self.free_kv_blocks = capacity.kv_blocks
        self._pace = Pace(assumed.step_duration_s, assumed.prefill_tokens_per_s, capacity.step_token_budget)
        self._steady_step_s, self._steady_prefill, self._steady_output = Steady(), Steady(), Steady()
        self._steady_prefill_step_s = Steady()
        self._steady_service_s = Steady()
        self._recompute, self._steady_found = Recompute(), Steady()
        self._overtaking = Overtaking(capacity.max_running_requests)
        self._tenants = TenantService(capacity.max_running_requests, tenant_weights or {})
        self._inbox = PredictionInbox(self.requests, Lender())
        self._finished = 0
        self._mean_output_tokens, self._mean_prompt_tokens = assumed.output_tokens, 0.0
        self._in_prefill = np.zeros(0, np.uint64)
        """Handles of the last report's batch whose prompts were not complete."""

    def declare(self, requests: Iterable[Declaration]) -> bool:
        """Add waiting requests; True where one of them has no prediction yet."""
        unpredicted = False
        for request in requests:
            if request.handle not in self.requests:
                self._overtaking.arrived(request.arrival_s)
            row = self.requests.add(request)
            self._inbox.deliver(request)
            unpredicted |= bool(self.requests.rows["predicted_at_age"][row] < 0)
        return unpredicted

    def apply(self, delta: Delta) -> Applied:
        """Take in a delta; one that is not newer than the last changes nothing."""
        if delta.step <= self.step:
            return Applied(stale=True)
        heard_before = self.step >= 0
        steps, self.step = delta.engine_steps or delta.step - self.step, delta.step
        self.free_kv_blocks = delta.free_kv_blocks
        unpredicted = self.declare(delta.arrived)
        unknown = self._preempt(delta.preempted)
        progressed = False
        if delta.running is not None:
            batch = self.requests.rows_of(delta.running.handles.tolist())
            unknown += int((batch < 0).sum())
            # Of a request that is gone after its prefill nobody hears how much it computed.
            all_told = bool(np.isin(self._in_prefill, delta.running.handles).all())
            gained, progressed = self._run(delta.running, batch, steps)
            # Of the steps before the first that it hears of, a stream knows neither the number nor what they computed.
            if delta.step_duration_s > 0 and heard_before:
                self._measure(batch[batch >= 0], gained, steps, delta.step_duration_s, all_told=all_told)
            else:
                self._pace.observe(0.0, None)
        finished = tuple(filter(None, map(self._finish, delta.finished)))
        unknown += len(delta.finished) - len(finished)
        return Applied(progressed, unpredicted, unknown, finished=finished)

    def apply_predictions(self, message: PublishedMessage) -> int:
        """Take in a published message; returns how many of its rows could be used."""
        return self._inbox.published(message)

    def apply_snapshot(self, snapshot: Snapshot) -> int:
        """Take in what the store holds; returns how many of its records could be used."""
        return self._inbox.stored(snapshot)

    def view(self, now_s: float = 0.0, overtaking_s: float = 0.0) -> EngineView:
        """What is known, until the next change; ``overtaking_s`` is the bound of overtaking, 0: none."""
        rows = self.requests.rows
        return EngineView(
            **rows,
            capacity=self.capacity,
            free_kv_blocks=self.free_kv_blocks,
            step_duration_s=self._steady_step_s.told(self._pace.step_duration_s),
            prefill_tokens_per_s=self._steady_prefill.told(self._pace.prefill_tokens_per_s),
            prefill_step_s=self._steady_prefill_step_s.told(self._pace.prefill_step_s),
            mean_service_s=self._steady_service_s.told(self._mean_service_s()),
            mean_output_tokens=self._steady_output.told(self._mean_output_tokens),
            step=self.step,
            now_s=now_s,
            overtaken_before_s=self._overtaking.let_ahead(overtaking_s, float(rows["arrival_s"].min(initial=np.inf))),
            tenant_service_s=self._tenants.service_s,
            recompute_share=self._recompute.share,
            found_again_share=self._steady_found.told(self._recompute.found_share),
        )

    def longest_waiting(self) -> tuple[float, float] | None:
        """When the request arrived that waits longest, and the service that later arrivals had, seconds of the engine
        (+inf: it is let ahead); None where nobody waits."""
        waiting = ~self.requests.rows["running"]
        if not waiting.any():
            return None
        arrival_s = float(self.requests.rows["arrival_s"][waiting].min())
        return arrival_s, self._overtaking.overtaken_s(arrival_s)

    @property
    def pace(self) -> Pace:
        """How fast the engine is."""
        return self._pace

    @property
    def recompute_share(self) -> float:
        """Of the tokens computed lately, how many had been computed before: 0 to 1."""
        return self._recompute.share

    def is_behind(self) -> bool:
        """Whether a request was never predicted, or has more than the token since then that nothing can tell of yet."""
        rows = self.requests.rows
        at_age, age = rows["predicted_at_age"], rows["age"]
        return bool(((at_age < 0) | (rows["running"] & (at_age < age - 1))).any())

    def _mean_service_s(self) -> float:
        prefill_s = self._pace.prefill_step_s + self._mean_prompt_tokens / self._pace.prefill_tokens_per_s
        return self.capacity.places * prefill_s + self._mean_output_tokens * self._pace.step_duration_s

    def _preempt(self, handles: Iterable[int]) -> int:
        rows = self.requests.rows_of(handles)
        rows, unknown = rows[rows >= 0], int((rows < 0).sum())
        table = self.requests.rows
        self.requests.touch(rows)
        table["running"][rows] = False
        table["computed_tokens"][rows] = 0
        table["age_at_preemption"][rows] = table["age"][rows]
        table["preemptions"][rows] += 1
        return unknown

    def _run(self, running: Running, batch: Ints, steps: int) -> tuple[Ints, bool]:
        """Tokens that each known row [running] computed since the last report, and whether one generated any."""
        known = batch >= 0
        rows, table = batch[known], self.requests.rows
        gained = np.maximum(running.computed_tokens[known] - table["computed_tokens"][rows], 0)
        came = ~table["running"][rows]
        if steps == 1:
            # What a newcomer comes with was found in the prefix cache, and not computed.
            gained[came] = 0
            self._resume(rows[came], running.computed_tokens[known][came])
        progressed = bool((running.ages[known] > table["age"][rows]).any())
        self.requests.touch(np.flatnonzero(table["running"]))
        self.requests.touch(rows)
        # The token of the step before a preemption, which its report could not tell yet, is no progress since.
        back = rows[~table["running"][rows] & (table["preemptions"][rows] > 0)]
        table["running"][:] = False
        table["running"][rows] = True
        # Reports may overtake each other inside an engine, but a request never loses a token it generated.
        table["age"][rows] = np.maximum(running.ages[known], table["age"][rows])
        table["age_at_preemption"][back] = table["age"][back]
        table["computed_tokens"][rows] = running.computed_tokens[known]
        self._in_prefill = running.handles[known][running.computed_tokens[known] < table["prompt_tokens"][rows]]
        return gained, progressed

    def _resume(self, rows: Ints, computed: Ints) -> None:
        """Takes in how many tokens those that enter the batch come with, where they had generated some before."""
        table = self.requests.rows
        again = (table["preemptions"][rows] > 0) & (table["age"][rows] > 0)
        had = (table["prompt_tokens"][rows] + table["age"][rows] - 1)[again]
        self._recompute.resumed(int(had.sum()), int(np.minimum(computed[again], had).sum()))

    def _measure(self, rows: Ints, gained: Ints, steps: int, duration_s: float, *, all_told: bool) -> None:
        """Takes in what a step of ``duration_s`` did for the requests that ran in it; ``all_told``: all prefill."""
        table = self.requests.rows
        self._overtaking.served(table["arrival_s"][rows], steps * duration_s)
        self._tenants.served(table["tenant"][rows], steps * duration_s)
        self._recompute.computed(int(gained.sum()))
        prefill_tokens = int(np.maximum(gained - steps, 0).sum())
        # More than the budget cannot have been computed: the rest came from the prefix cache. Prefill that is
        # spread over several steps cannot be set against the duration of the newest.
        budget = self.capacity.step_token_budget or prefill_tokens
        known = all_told and (prefill_tokens == 0 or (steps == 1 and prefill_tokens <= budget))
        self._pace.observe(duration_s, prefill_tokens if known else None)

    def _finish(self, outcome: Outcome) -> Finished | None:
        """Forget a request that ended; None where it was not alive."""
        if outcome.handle not in self.requests:
            return None
        row, rows = self.requests.row(outcome.handle), self.requests.rows
        told = {name: float(rows[name][row]) for name in ("r0", "r1", "mean")}
        declaration = self.requests.declaration(outcome.handle)
        finished = Finished(declaration, outcome, **told, predicted_at_age=int(rows["predicted_at_age"][row]))
        if outcome.reason in ("stop", "length"):
            self._finished += 1
            self._mean_output_tokens += (outcome.output_tokens - self._mean_output_tokens) / self._finished
            self._mean_prompt_tokens += (declaration.prompt_tokens - self._mean_prompt_tokens) / self._finished
        self.requests.remove(outcome.handle)
        self._inbox.forget(outcome.handle)
        return finished
