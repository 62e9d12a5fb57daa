"""The simulated engine behind the same rings and board as a real one."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine_adapter.bell import Ringer
from engine_adapter.board import BoardPlan, BoardReader
from engine_adapter.paths import EVENT_RING_BYTES, ROW_RING_BYTES, engine_paths
from engine_adapter.records import DTYPES, Arrived, Engine, Finished, Rows, Step
from engine_adapter.ring import RingProducer
from engine_adapter.simulated.model import Computed, EngineModel, StepResult
from engine_adapter.simulated.request import SimulatedRequest

STOP = 1  # trail.v1.FinishReason
FLOAT16 = 1  # trail.v1.Dtype


class SimulatedEngine:
    """Steps when it is told to. Hidden states are noise, but for their first value: the log of the remaining length,
    within ``noise``."""

    def __init__(
        self,
        engine_id: str,
        capacity: Engine,
        *,
        dim: int,
        shm_root: Path | None = None,
        noise: float = 0.1,
        seed: int = 0,
        event_ring_bytes: int = EVENT_RING_BYTES,
        row_ring_bytes: int = ROW_RING_BYTES,
    ) -> None:
        paths = engine_paths(engine_id, shm_root)
        self.model = EngineModel(capacity)
        self._dim, self._noise = dim, noise
        self._random = np.random.default_rng(seed)
        self._events = RingProducer(paths.events, event_ring_bytes)
        self._rows = RingProducer(paths.rows, row_ring_bytes, Ringer(paths.row_bell))
        self._board = BoardReader(paths.board)
        self._heard_by = -1
        self._steps = 0
        self._step_ended_s = 0.0
        self._plan: BoardPlan | None = None

    def submit(self, request: SimulatedRequest) -> None:
        """Takes a request in. Raises ValueError where it could never run."""
        self.model.submit(request)
        self._events.write(_arrived(request).pack())

    @property
    def living(self) -> int:
        return len(self.model.running) + len(self.model.waiting)

    @property
    def plan(self) -> BoardPlan | None:
        """The plan that the newest step followed."""
        return self._plan

    def step(self) -> StepResult:
        """One step under the newest living plan, or in the engine's own order."""
        self._plan = self._living_plan()
        result = self.model.step(self._plan, time.time())
        self._steps += 1
        self._report(result)
        return result

    def run(self, step_s: float, *, timeout_s: float) -> list[SimulatedRequest]:
        """Steps every ``step_s`` until all requests have ended; returns them in that order.

        Raises:
            TimeoutError: some live on after ``timeout_s``.
        """
        ended: list[SimulatedRequest] = []
        deadline_s = time.monotonic() + timeout_s
        while self.living:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{self.living} requests live on after {timeout_s} s")
            ended.extend(self.step().finished)
            time.sleep(step_s)
        return ended

    def close(self) -> None:
        for part in (self._events, self._rows, self._board):
            part.close()

    def _living_plan(self) -> BoardPlan | None:
        plan = self._board.newest() or self._plan
        return plan if plan is not None and plan.alive() else None

    def _report(self, result: StepResult) -> None:
        if self._heard_by != self._events.consumer_generation:
            self._declare_all()
        self._events.write(self._step_record(result).pack())
        self._ship(result.computed)
        for request in result.finished:
            self._events.write(_finished(request).pack())

    def _declare_all(self) -> None:
        """The agent is new, or has lost something."""
        self._heard_by = self._events.consumer_generation
        self._events.write(self.model.capacity.pack())
        for request in (*self.model.running, *self.model.waiting):
            self._events.write(_arrived(request).pack())

    def _step_record(self, result: StepResult) -> Step:
        now_s, before_s = time.monotonic(), self._step_ended_s
        self._step_ended_s = now_s if result.running else 0.0
        running, ages, computed = zip(*result.running, strict=True) if result.running else ((), (), ())
        preempted = [request.handle for request in (*result.preempted_by_plan, *result.evicted)]
        return Step(
            step=self._steps,
            monotonic_ns=time.monotonic_ns(),
            plan_number=self._plan.number if self._plan else 0,
            duration_s=now_s - before_s if before_s else 0.0,
            free_kv_blocks=self.model.free_kv_blocks,
            waiting=len(self.model.waiting),
            running=np.array([request.handle for request in running], np.uint64),
            ages=np.array(ages, np.uint32),
            computed_tokens=np.array(computed, np.uint32),
            preempted=np.array(preempted, np.uint64),
            preempted_by_plan=len(result.preempted_by_plan),
        )

    def _ship(self, computed: Sequence[Computed]) -> None:
        """One row for each request that came further than ever; a recompute ships nothing twice."""
        fresh = [entry for entry in computed if entry.age_tokens > entry.request.tapped_age]
        for entry in fresh:
            entry.request.tapped_age = entry.age_tokens
        if not fresh:
            return
        rows = Rows(
            step=self._steps,
            dtype=FLOAT16,
            dim=self._dim,
            handles=np.array([entry.request.handle for entry in fresh], np.uint64),
            ages=np.array([entry.age_tokens for entry in fresh], np.uint32),
            vectors=self._vectors(fresh),
        )
        self._rows.write(*rows.pack())

    def _vectors(self, entries: Sequence[Computed]) -> np.ndarray[tuple[int, int], np.dtype[np.generic]]:
        """[N, dim] hidden states."""
        vectors = self._random.standard_normal((len(entries), self._dim))
        remaining = np.array([entry.request.output_tokens - entry.age_tokens for entry in entries], np.float64)
        vectors[:, 0] = np.log1p(remaining) + self._noise * vectors[:, 0]
        return vectors.astype(DTYPES[FLOAT16])


def _arrived(request: SimulatedRequest) -> Arrived:
    return Arrived(
        handle=request.handle,
        request_id=request.request_id,
        arrival_time_s=request.arrival_s,
        age_tokens=request.age_tokens,
        max_tokens=request.max_tokens,
        declared_output_tokens=request.declared_output_tokens,
        priority=request.priority,
        tenant=request.tenant,
        prompt_token_ids=np.array(request.prompt_token_ids, np.uint32),
    )


def _finished(request: SimulatedRequest) -> Finished:
    now_s = time.time()
    first_s = request.first_token_s
    return Finished(
        handle=request.handle,
        reason=STOP,
        output_tokens=request.age_tokens,
        latency_s=now_s - request.arrival_s,
        time_to_first_token_s=0.0 if first_s is None else first_s - request.arrival_s,
        preemptions=request.preemptions,
        recomputed_tokens=request.recomputed_tokens,
    )
