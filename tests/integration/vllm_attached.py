"""One of vLLM's scheduler classes behind the mixin, with what its agent would hold."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from engine_adapter.board import BoardPlan, BoardWriter
from engine_adapter.paths import EnginePaths, engine_paths
from engine_adapter.records import Record, Step, handle_of, unpack
from engine_adapter.ring import RingConsumer
from tests.integration.vllm_engine import PretendEngine


class Attached:
    """An engine with what its agent would hold."""

    def __init__(
        self, folder: Path, scheduler: type, depth: int, *, blocks: int = 400, slots: int = 8, **options: Any
    ) -> None:
        """``options``: of `PretendEngine`."""
        self.paths: EnginePaths = engine_paths("e0", folder / "shm")
        self.events = RingConsumer(self.paths.events, 1 << 22)
        self.board = BoardWriter(self.paths.board)
        trail = {"engine_id": "e0", "shm_root": str(folder / "shm"), "event_ring_bytes": 1 << 22}
        self.engine = PretendEngine(
            folder / "model", scheduler, trail=trail, depth=depth, blocks=blocks, slots=slots, **options
        )
        self._plans = 0
        self._newest: Step | None = None
        self.parts = 0

    def plan(
        self,
        order: list[str],
        preempt: Iterable[tuple[str, int, str]] = (),
        ttl_s: float = 60.0,
        reserve_blocks: int = 0,
        admit_together: int = 0,
    ) -> int:
        """Publishes a plan: names best first, and (victim, guard, beneficiary)."""
        self._plans += 1
        preempt = list(preempt)
        self.board.publish(
            BoardPlan(
                number=self._plans,
                expires_ns=time.monotonic_ns() + int(ttl_s * 1e9),
                handles=np.array([handle_of(name) for name in order], np.uint64),
                ranks=np.arange(len(order), dtype=np.float32),
                victims=np.array([handle_of(v) for v, _, _ in preempt], np.uint64),
                guards=np.array([g for _, g, _ in preempt], np.uint32),
                beneficiaries=np.array([handle_of(b) for _, _, b in preempt], np.uint64),
                reserve_blocks=reserve_blocks,
                admit_together=admit_together,
            )
        )
        return self._plans

    def read(self) -> list[Record]:
        """What was reported, with steps made whole."""
        records: list[Record] = []
        while (packed := self.events.read()) is not None:
            record = unpack(packed)
            if isinstance(record, Step):
                if not record.whole:
                    assert self._newest is not None
                    record = record.after(self._newest)
                    self.parts += 1
                assert self._newest is None or record.step == self._newest.step + 1
                self._newest = record
            records.append(record)
        return records

    @property
    def running(self) -> list[str]:
        return [request.request_id for request in self.engine.scheduler.running]

    @property
    def waiting(self) -> list[str]:
        return [request.request_id for request in self.engine.scheduler.waiting]
