"""The engine's side of the loop: rings that a step fills as vLLM's tap and scheduler do, and an agent that watches."""

import asyncio
import time
from itertools import count

import numpy as np
import numpy.typing as npt

from engine_adapter.agent.counters import Counters
from engine_adapter.agent.plan_book import PlanBook
from engine_adapter.bell import Ringer
from engine_adapter.paths import EVENT_RING_BYTES, ROW_RING_BYTES, EnginePaths
from engine_adapter.records import Arrived, Rows, Step, handle_of
from engine_adapter.records import Engine as Capacity
from engine_adapter.ring import RingProducer

FLOAT16 = 1
PROMPT_TOKENS = 32
BLOCK_TOKENS = 16
_MATRICES = 4


class LoopEngine:
    """`running` requests that have one more token after each step, and as many that wait."""

    def __init__(self, paths: EnginePaths, running: int, dim: int, seed: int = 0) -> None:
        self._events = RingProducer(paths.events, EVENT_RING_BYTES)
        self._rows = RingProducer(paths.rows, ROW_RING_BYTES, Ringer(paths.row_bell))
        self._told = self._events.consumer_generation
        self._running = np.array([handle_of(f"running-{index}") for index in range(running)], np.uint64)
        self._dim = dim
        rng = np.random.default_rng(seed)
        self._vectors = [rng.standard_normal((running, dim)).astype(np.float16) for _ in range(_MATRICES)]
        self._numbers = count(1)
        self.age = 0
        self.declared = False

    @property
    def running(self) -> npt.NDArray[np.uint64]:
        """Handles [N]."""
        return self._running

    def step(self) -> int:
        """The end of one step, whose rows are written, and the start of the next; the age of those rows."""
        if self._told != self._events.consumer_generation:
            self._told = self._events.consumer_generation
            self.declared = True
            self._declare()
        if self.age:
            self._rows.write(*self._row_record().pack())
        made_at, self.age = self.age, self.age + 1
        self._events.write(self._step_record().pack())
        return made_at

    def close(self) -> None:
        self._events.close()
        self._rows.close()

    def _declare(self) -> None:
        blocks = 4 * len(self._running) * PROMPT_TOKENS // BLOCK_TOKENS
        self._events.write(Capacity(len(self._running), blocks, BLOCK_TOKENS, 8192).pack())
        ids = np.arange(1, PROMPT_TOKENS + 1, dtype=np.uint32)
        now_s = time.time()
        for kind in ("running", "waiting"):
            for index in range(len(self._running)):
                name = f"{kind}-{index}"
                age = self.age if kind == "running" else 0
                self._events.write(Arrived(handle_of(name), name, now_s, age, 0, 0, 0, "", ids).pack())

    def _row_record(self) -> Rows:
        vectors = self._vectors[self.age % _MATRICES]
        ages = np.full(len(self._running), self.age, np.uint32)
        return Rows(self.age, FLOAT16, self._dim, self._running, ages, vectors)

    def _step_record(self) -> Step:
        ages = np.full(len(self._running), self.age, np.uint32)
        computed = ages + np.uint32(PROMPT_TOKENS)
        nobody = np.zeros(0, np.uint64)
        return Step(
            step=next(self._numbers), monotonic_ns=time.monotonic_ns(), plan_number=0, duration_s=0.01,
            free_kv_blocks=len(self._running), waiting=len(self._running), running=self._running, ages=ages,
            computed_tokens=computed, preempted=nobody, preempted_by_plan=0,
        )  # fmt: skip


class WatchedPlans(PlanBook):
    """Tells when a plan rests on predictions that are new enough for every running request."""

    def __init__(self, running: npt.NDArray[np.uint64]) -> None:
        super().__init__(Counters())
        self._running = running
        self._awaited = np.iinfo(np.int64).max
        self._came = asyncio.Event()

    def add(self, number: int, handles: npt.NDArray[np.uint64], predicted_at_ages: npt.NDArray[np.uint32]) -> None:
        super().add(number, handles, predicted_at_ages)
        of_running = predicted_at_ages[np.isin(handles, self._running)].astype(np.int64)
        if of_running.size == self._running.size and of_running.min() >= self._awaited:
            self._came.set()

    async def resting_on(self, age: int, timeout_s: float) -> None:
        """Returns when a plan is on the board whose predictions saw `age` tokens of each. Raises TimeoutError."""
        self._awaited = age
        self._came.clear()
        async with asyncio.timeout(timeout_s):
            await self._came.wait()
