"""The scripted engine: events as JSON lines to the adapter's standard input, its decisions from standard output."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sidecar.cli.conformance.verdict import Broken

DIM = 4
MAX_RUNNING = 4
KV_BLOCKS = 10_000
PROMPT = (7, 8, 9)


@dataclass(slots=True)
class Request:
    """One request of the script, as the engine knows it."""

    request_id: str
    index: int
    arrival_time_s: float
    tenant: str
    priority: int
    max_tokens: int
    age: int = 0
    steps: int = 0
    alive: bool = True

    def values(self, age: int) -> list[float]:
        """The hidden state at an age; the same numbers in every float type."""
        return [float(self.index), float(age % 128), float(age // 128), -0.5]


@dataclass(frozen=True, slots=True)
class Decision:
    """What the adapter would have the engine do at its next step; an empty order: the engine's own."""

    order: tuple[str, ...]
    preempt: tuple[str, ...]

    def __str__(self) -> str:
        return f"order {list(self.order) or 'of the engine'}, preempt {list(self.preempt)}"


@dataclass(slots=True)
class Batch:
    """What one step told: (age, computed tokens) of each request that ran, and who was preempted before it."""

    running: dict[str, tuple[int, int]]
    preempted: tuple[str, ...]
    duration_s: float


@dataclass
class ScriptedEngine:
    """Tells the adapter what happens, and remembers it, so that what reaches the services can be compared.

    The number of a step travels as its free KV blocks (`KV_BLOCKS - step`): so a message that tells a batch says which.
    """

    command: Sequence[str]
    environment: Mapping[str, str]
    timeout_s: float
    engine_id: str = "conformance"
    lives: dict[str, list[Request]] = field(default_factory=dict)
    batches: dict[int, Batch] = field(default_factory=dict)
    ends: dict[str, dict[str, Any]] = field(default_factory=dict)
    stderr: deque[str] = field(default_factory=lambda: deque(maxlen=20))
    process: asyncio.subprocess.Process | None = None
    _following: asyncio.Task[None] | None = None

    @property
    def requests(self) -> dict[str, Request]:
        """Those alive, by id."""
        return {name: lives[-1] for name, lives in self.lives.items() if lives[-1].alive}

    async def start(self) -> None:
        """Starts the adapter and tells it what the engine is. Raises OSError where there is no such program."""
        pipe = asyncio.subprocess.PIPE
        environment = os.environ | dict(self.environment)
        self.process = await asyncio.create_subprocess_exec(
            *self.command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment
        )
        self._following = asyncio.create_task(self._follow(self.process))
        await self._tell(
            event="engine", engine_id=self.engine_id, max_running_requests=MAX_RUNNING, kv_blocks=KV_BLOCKS,
            kv_block_tokens=16, step_token_budget=256, dim=DIM,
        )  # fmt: skip

    async def arrive(self, *request_ids: str) -> None:
        """New requests."""
        for request_id in request_ids:
            index = sum(map(len, self.lives.values())) + 1
            request = Request(request_id, index, round(time.time(), 3), f"tenant-{index}", index % 3, 100 + index)
            self.lives.setdefault(request_id, []).append(request)
            await self._tell(
                event="arrived", request_id=request_id, prompt_token_ids=list(PROMPT), max_tokens=request.max_tokens,
                arrival_time_s=request.arrival_time_s, priority=request.priority, tenant=request.tenant,
            )  # fmt: skip

    async def step(self, *running: str, preempted: Sequence[str] = ()) -> int:
        """One step with these in the batch; each that ran before is one token further. Returns its number."""
        number, living = len(self.batches) + 1, self.requests
        told, rows, batch = [], [], {}
        for name in running:
            request = living[name]
            request.age += request.steps > 0
            computed = len(PROMPT) + request.age - 1 if request.steps else 0
            request.steps += 1
            batch[name] = request.age, computed
            told.append({"request_id": name, "age": request.age, "computed_tokens": computed})
            rows.append({"request_id": name, "age": request.age, "values": request.values(request.age)})
        duration_s = number / 1024
        self.batches[number] = Batch(batch, tuple(preempted), duration_s)
        await self._tell(
            event="step", step=number, duration_s=duration_s, free_kv_blocks=KV_BLOCKS - number, running=told,
            preempted=list(preempted), rows=rows,
        )  # fmt: skip
        return number

    async def finish(self, request_id: str) -> None:
        """A request ends."""
        request = self.requests[request_id]
        request.alive = False
        end = {
            "reason": "length" if request.index % 2 else "stop", "output_tokens": request.age + 1,
            "latency_s": request.index + 0.5, "time_to_first_token_s": 0.25, "preemptions": request.index,
            "recomputed_tokens": request.index + 1,
        }  # fmt: skip
        self.ends[request_id] = end
        await self._tell(event="finished", request_id=request_id, **end)

    async def schedule(self) -> Decision:
        """Asks for the decision of the next step. Raises Broken where none comes or it cannot be read."""
        await self._tell(event="schedule")
        process = self._started()
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        try:
            async with asyncio.timeout(self.timeout_s):
                line = await process.stdout.readline()
        except TimeoutError:
            raise Broken("one line on standard output for each `schedule`", f"none in {self.timeout_s:g} s") from None
        if not line:
            raise await self._dead()
        try:
            answer = json.loads(line)
            return Decision(tuple(map(str, answer["order"])), tuple(map(str, answer["preempt"])))
        except (ValueError, KeyError, TypeError):
            raise Broken('{"order": [ids], "preempt": [ids]} for `schedule`', line.decode(errors="replace")) from None

    async def leave(self) -> int:
        """Ends standard input; the adapter's exit status. Raises Broken where it does not end."""
        process = self._started()
        assert process.stdin is not None  # noqa: S101 - it is a pipe
        process.stdin.close()
        try:
            async with asyncio.timeout(self.timeout_s):
                return await process.wait()
        except TimeoutError:
            raise Broken("the adapter ends when its input does", f"it ran {self.timeout_s:g} s longer") from None

    async def kill(self) -> None:
        """As if the machine had died."""
        if self.process is None or self._following is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        await self._following

    async def check_alive(self) -> None:
        """Raises Broken where the adapter has ended."""
        if self.process is not None and self.process.returncode is not None:
            raise await self._dead()

    async def _dead(self) -> Broken:
        process = self._started()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.timeout_s):
                await process.wait()
        last = " / ".join(self.stderr) or "nothing"
        return Broken("the adapter goes on", f"it ended with status {process.returncode}; it wrote: {last}")

    def _started(self) -> asyncio.subprocess.Process:
        if self.process is None:
            raise RuntimeError("the adapter was not started")
        return self.process

    async def _tell(self, **event: Any) -> None:
        process = self._started()
        assert process.stdin is not None  # noqa: S101 - it is a pipe
        try:
            process.stdin.write(json.dumps(event).encode() + b"\n")
            async with asyncio.timeout(self.timeout_s):
                await process.stdin.drain()
        except TimeoutError:
            raise Broken("the adapter reads its events", f"it read none for {self.timeout_s:g} s") from None
        except (BrokenPipeError, ConnectionResetError):
            raise await self._dead() from None

    async def _follow(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None  # noqa: S101 - it was asked for
        while line := await process.stderr.readline():
            self.stderr.append(line.decode(errors="replace").rstrip())
