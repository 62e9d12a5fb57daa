"""Plans on their way from the scheduler service to the board."""

import time
from itertools import count

import numpy as np

from engine_adapter.agent.counters import Counters
from engine_adapter.agent.hops import Hops
from engine_adapter.agent.plan_book import PlanBook
from engine_adapter.board import MAX_ENTRIES, MAX_PREEMPTIONS, BoardPlan, BoardWriter
from trail.v1 import scheduler_pb2


class PlanPublisher:
    """Puts plans on the board under numbers of its own, for each stream counts its plans from the start."""

    def __init__(self, board: BoardWriter, book: PlanBook, ttl_limit_ms: int, counters: Counters, hops: Hops) -> None:
        self._board, self._book, self._counters, self._hops = board, book, counters, hops
        self._ttl_limit_ms = ttl_limit_ms
        self._numbers = count(1)

    def publish(self, plan: scheduler_pb2.EnginePlan, age_ns: int = 0) -> None:
        """Makes ``plan`` the engine's, which is out of date since ``age_ns``: its life started then. One that is over
        already, or that contradicts itself, is rejected."""
        received_s = time.perf_counter()
        self._counters.plans_received += 1
        lengths = {len(plan.handles), len(plan.ranks), len(plan.predicted_at_ages)}
        ttl_ns = min(plan.ttl_ms, self._ttl_limit_ms) * 1_000_000 - age_ns
        if len(lengths) > 1 or ttl_ns <= 0:
            self._counters.plans_rejected += 1
            return
        number = next(self._numbers)
        handles = np.array(plan.handles[:MAX_ENTRIES], np.uint64)
        preemptions = plan.preemptions[:MAX_PREEMPTIONS]
        at_ages = np.array(plan.predicted_at_ages[:MAX_ENTRIES], np.uint32)
        now_ns = time.monotonic_ns()
        self._book.add(number, handles, at_ages)
        self._book.fail_open.published(now_ns, now_ns + ttl_ns)
        self._board.publish(
            BoardPlan(
                number=number,
                expires_ns=now_ns + ttl_ns,
                handles=handles,
                ranks=np.array(plan.ranks[:MAX_ENTRIES], np.float32),
                victims=np.array([preemption.victim for preemption in preemptions], np.uint64),
                guards=np.array([preemption.only_if_age_below for preemption in preemptions], np.uint32),
                beneficiaries=np.array([preemption.beneficiary for preemption in preemptions], np.uint64),
                reserve_blocks=plan.reserve_kv_blocks,
                admit_together=plan.admit_together,
            )
        )
        self._hops.planned(handles, at_ages, plan.traceparent, received_s)

    def opened(self) -> None:
        """A scheduler is there, and has not planned yet."""
        self._book.fail_open.opened()

    def reject(self) -> None:
        """A plan of another epoch, or an old one again."""
        self._counters.plans_received += 1
        self._counters.plans_rejected += 1

    def withdraw(self) -> None:
        """The engine goes back to its own order at its next step."""
        self._board.withdraw()
        self._book.fail_open.withdrawn()
