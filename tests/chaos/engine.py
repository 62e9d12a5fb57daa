"""A simulated engine under load, in a thread of its own: it never waits for the tests, nor for anything they break."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine_adapter.board import BoardPlan
from engine_adapter.paths import EnginePaths, engine_paths
from engine_adapter.records import Engine
from engine_adapter.simulated.engine import SimulatedEngine
from engine_adapter.simulated.request import SimulatedRequest
from engine_adapter.simulated.step_result import StepResult
from tests.chaos.tokens import Generation, alone

CAPACITY = Engine(max_running_requests=4, kv_blocks=60, kv_block_tokens=16, step_token_budget=256)
DIM = 16
STEP_S = 0.01
LIVING = 12
RING_BYTES = 1 << 17
"""Small, so that rings run full while an agent sleeps."""
REMEMBERED_STEPS = 60_000


@dataclass(frozen=True, slots=True)
class SeenStep:
    """A step with a batch, and the plan that it followed; None: the engine's own order."""

    at_s: float
    plan: BoardPlan | None


class LoadedEngine:
    """Keeps ``LIVING`` requests in the engine while there is load; every answer is compared with what it must be."""

    def __init__(self, engine_id: str, root: Path, *, seed: int = 0, prefix: str = "request") -> None:
        self.engine_id, self._root, self._prefix = engine_id, root, prefix
        self.submitted = self.ended = self.changed = 0
        self.steps: deque[SeenStep] = deque(maxlen=REMEMBERED_STEPS)
        self.on_step: Callable[[StepResult], None] | None = None
        """Called in the engine's thread after each step."""
        self._random = random.Random(seed)
        self._living: dict[str, tuple[SimulatedRequest, Generation]] = {}
        self._engine = self._made()
        self._lock = threading.Lock()
        self._loaded, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=engine_id)
        self._thread.start()

    @property
    def paths(self) -> EnginePaths:
        return engine_paths(self.engine_id, self._root)

    @property
    def living(self) -> int:
        return len(self._living)

    @property
    def simulated(self) -> SimulatedEngine:
        return self._engine

    @property
    def free_kv_blocks(self) -> int:
        return self._engine.model.free_kv_blocks

    @property
    def plan(self) -> BoardPlan | None:
        """That of the newest step."""
        return self.steps[-1].plan if self.steps else None

    def load(self) -> None:
        """From now on new requests come."""
        self._loaded.set()

    def rest(self) -> None:
        """No new requests come; those that live go on to their ends."""
        self._loaded.clear()

    def submit(self, count: int, *, prompt_tokens: int | None = None, output_tokens: int | None = None) -> None:
        """So many more requests."""
        with self._lock:
            for _ in range(count):
                self._submit(prompt_tokens, output_tokens)

    @contextlib.contextmanager
    def paused(self) -> Iterator[SimulatedEngine]:
        """Between two steps."""
        with self._lock:
            yield self._engine

    def crash(self) -> None:
        """The engine dies without a word and is back on the same files. Its clients ask again, under the same ids."""
        with self._lock:
            self._engine = self._made()
            for request_id, (request, _) in list(self._living.items()):
                self._enter(request_id, request.prompt_token_ids, request.output_tokens)

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._engine.close()

    def first_step_after(self, at_s: float, *, planned: bool, other_than: BoardPlan | None = None) -> float | None:
        """When the first step after ``at_s`` was that followed a plan (another one than that), or none did."""
        for step in tuple(self.steps):
            if step.at_s > at_s and (step.plan is not None) == planned and (not planned or step.plan is not other_than):
                return step.at_s
        return None

    def _made(self) -> SimulatedEngine:
        return SimulatedEngine(
            self.engine_id,
            CAPACITY,
            dim=DIM,
            shm_root=self._root,
            event_ring_bytes=RING_BYTES,
            row_ring_bytes=RING_BYTES,
        )

    def _run(self) -> None:
        while not self._closing.is_set():
            with self._lock:
                while self._loaded.is_set() and len(self._living) < LIVING:
                    self._submit()
                # An engine that serves nobody makes no steps.
                if self._living:
                    self._step()
            time.sleep(STEP_S)

    def _submit(self, prompt_tokens: int | None = None, output_tokens: int | None = None) -> None:
        self.submitted += 1
        prompt = [self._random.randrange(1_000) for _ in range(prompt_tokens or self._random.randint(4, 48))]
        self._enter(f"{self._prefix}-{self.submitted}", prompt, output_tokens or self._random.choice((5, 20, 60, 120)))

    def _enter(self, request_id: str, prompt: Sequence[int], output_tokens: int) -> None:
        request = SimulatedRequest(request_id, prompt, output_tokens, time.time(), max_tokens=512)
        self._living[request_id] = request, Generation(prompt)
        self._engine.submit(request)

    def _step(self) -> None:
        at_s = time.monotonic()
        result = self._engine.step()
        self.steps.append(SeenStep(at_s, self._engine.plan))
        for entry in result.computed:
            self._living[entry.request.request_id][1].generate(entry.age_tokens)
        for request in result.finished:
            _, generation = self._living.pop(request.request_id)
            self.ended += 1
            self.changed += generation.tokens != alone(request.prompt_token_ids, request.output_tokens)
        if self.on_step is not None:
            self.on_step(result)
