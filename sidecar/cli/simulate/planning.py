"""The scheduler service's part: what it would hear of the engine and the predictor, and the plans it would send."""

from __future__ import annotations

from collections import deque

import numpy as np

from engine_adapter.board import BoardPlan
from engine_adapter.simulated.request import SimulatedRequest
from engine_adapter.simulated.step_result import StepResult
from scheduler_service.incremental import IncrementalPlanner
from scheduler_service.messages import Declaration, Delta, Epoch, Outcome, Predictions, PublishedMessage, Running
from scheduler_service.planner import Plan
from scheduler_service.state import EngineState
from scheduler_service.view import Capacity
from sidecar.cli.simulate.arms import Arm
from sidecar.cli.simulate.predictions import Paths
from sidecar.cli.simulate.workload import Ints

EPOCH = Epoch(1, 1)
FOR_EVER_NS = 2**62


class Planning:
    """Production's state and planner for one simulated engine.

    In every ``every``-th step it hears the predictor and plans; the plan is what the engine follows from
    ``delay_steps`` steps later on. Of each step it hears what the engine's adapter reports: the batch as it goes in.
    """

    def __init__(self, arm: Arm, capacity: Capacity, paths: Paths, every: int, delay_steps: int) -> None:
        assert arm.choice is not None  # noqa: S101
        self._choice, self._declares = arm.choice, arm.sees_true_lengths
        self._capacity = capacity
        self._state = EngineState(capacity)
        self._planner = IncrementalPlanner(self._state.requests, arm.limits)
        self._paths = paths
        self._every, self._delay_steps = every, delay_steps
        self._plans: deque[tuple[int, BoardPlan]] = deque()
        self._current: BoardPlan | None = None
        self._arrived: list[SimulatedRequest] = []
        self._unpredicted: list[int] = []
        self._finished: list[Outcome] = []
        self._tapped: tuple[Ints, Ints] = (np.zeros(0, np.int64), np.zeros(0, np.int64))
        self._messages = 0

    def plan_for(self, step: int) -> BoardPlan | None:
        """The newest plan that has reached the engine before this step."""
        while self._plans and self._plans[0][0] + self._delay_steps <= step:
            self._current = self._plans.popleft()[1]
        return self._current

    def arrived(self, request: SimulatedRequest) -> None:
        self._arrived.append(request)
        self._unpredicted.append(request.handle - 1)

    def stepped(
        self, step: int, result: StepResult, last_duration_s: float, *, waiting: int, free_kv_blocks: int, end_s: float
    ) -> None:
        """Takes in what step number ``step`` was, and plans where it is time to.

        ``last_duration_s`` is of the step before, 0 after a pause; ``waiting`` and ``free_kv_blocks`` are as the
        engine left them when it had scheduled this step, which ends at ``end_s``.
        """
        self._state.apply(self._delta(step, result, last_duration_s, free_kv_blocks))
        if step % self._every == 0 and not self._idle(result, waiting, free_kv_blocks):
            self._predict(*self._tapped)
            plan = self._plan(self._state, end_s)
            self._plans.append((step, board_plan(plan, step + 1)))
        rows = np.flatnonzero(result.made)
        self._tapped = result.handles[rows].astype(np.int64) - 1, result.ages[rows]
        self._finished = [_outcome(request, end_s) for request in result.finished]

    def _plan(self, state: EngineState, now_s: float) -> Plan:
        return self._planner.plan(state.view(now_s, self._choice.overtaking_s), self._choice)

    def _idle(self, result: StepResult, waiting: int, free_kv_blocks: int) -> bool:
        """Whether no plan can matter in the next step: nobody waits, all decode, and KV blocks suffice for all.

        Where plans come in later or not at every step, more could happen before the next one: then it plans.
        """
        if waiting or self._every > 1 or self._delay_steps > 1 or result.load.prefill_tokens:
            return False
        # Half of the memory is more than any plan keeps free.
        return free_kv_blocks >= max(len(result.requests), self._capacity.kv_blocks // 2)

    def _delta(self, step: int, result: StepResult, last_duration_s: float, free_kv_blocks: int) -> Delta:
        arrived = tuple(self._declaration(request) for request in self._arrived)
        self._arrived.clear()
        gone = (*result.preempted_by_plan, *result.evicted)
        return Delta(
            epoch=EPOCH,
            step=step,
            step_duration_s=last_duration_s,
            arrived=arrived,
            running=Running(result.handles, result.ages, result.computed_tokens),
            preempted=tuple(request.handle for request in gone),
            finished=tuple(self._finished),
            free_kv_blocks=free_kv_blocks,
        )

    def _declaration(self, request: SimulatedRequest) -> Declaration:
        return Declaration(
            handle=request.handle,
            request_id=request.request_id,
            prompt_tokens=request.prompt_tokens,
            arrival_s=request.arrival_s,
            priority=request.priority,
            tenant=request.tenant,
            declared_output_tokens=request.output_tokens if self._declares else 0,
        )

    def _predict(self, requests: Ints, ages: Ints) -> None:
        if self._unpredicted:
            newcomers = np.array(self._unpredicted, np.int64)
            self._unpredicted.clear()
            self._publish(newcomers, self._paths.on_arrival(newcomers))
        if len(requests):
            self._publish(requests, self._paths.at_ages(requests, ages))

    def _publish(self, requests: Ints, predictions: Predictions) -> None:
        self._messages += 1
        handles = (requests + 1).astype(np.uint64)
        self._state.apply_predictions(PublishedMessage(EPOCH, self._messages, handles, predictions))


def board_plan(plan: Plan, number: int) -> BoardPlan:
    """The plan as it would lie on the engine's board."""
    return BoardPlan(
        number=number,
        expires_ns=FOR_EVER_NS,
        handles=plan.handles,
        ranks=plan.ranks.astype(np.float32),
        victims=np.array([each.victim for each in plan.preemptions], np.uint64),
        guards=np.array([each.only_if_age_below for each in plan.preemptions], np.uint32),
        beneficiaries=np.array([each.beneficiary for each in plan.preemptions], np.uint64),
        reserve_blocks=plan.reserve_blocks,
        admit_together=plan.admit_together,
    )


def _outcome(request: SimulatedRequest, now_s: float) -> Outcome:
    first_s = now_s if request.first_token_s is None else request.first_token_s
    return Outcome(
        handle=request.handle,
        reason="stop",
        output_tokens=request.age_tokens,
        latency_s=now_s - request.arrival_s,
        time_to_first_token_s=first_s - request.arrival_s,
        preemptions=request.preemptions,
        recomputed_tokens=request.recomputed_tokens,
    )
