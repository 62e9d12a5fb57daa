"""A simulated engine, an agent in a process of its own, and a way to wait for what they do."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine_adapter.paths import EVENT_RING_BYTES, ROW_RING_BYTES, engine_paths
from engine_adapter.records import Engine
from engine_adapter.simulated.engine import SimulatedEngine
from engine_adapter.simulated.request import SimulatedRequest
from tests.patience import PATIENCE_S

ENGINE_ID = "engine-test"
CAPACITY = Engine(max_running_requests=4, kv_blocks=200, kv_block_tokens=16, step_token_budget=256)
STEP_S = 0.005


class Harness:
    """Steps the engine while it waits for conditions."""

    def __init__(
        self,
        root: Path,
        dim: int,
        capacity: Engine = CAPACITY,
        *,
        event_ring_bytes: int = EVENT_RING_BYTES,
        row_ring_bytes: int = ROW_RING_BYTES,
    ) -> None:
        self.root = root
        self.paths = engine_paths(ENGINE_ID, root)
        self.engine = SimulatedEngine(
            ENGINE_ID,
            capacity,
            dim=dim,
            shm_root=root,
            event_ring_bytes=event_ring_bytes,
            row_ring_bytes=row_ring_bytes,
        )
        self._submitted = 0

    def submit(self, count: int = 1, *, output_tokens: int = 1500, prompt_tokens: int = 8) -> list[str]:
        """New requests, long-lived unless told otherwise; returns their ids."""
        names = [f"request-{self._submitted + index}" for index in range(count)]
        self._submitted += count
        for name in names:
            prompt = tuple(range(prompt_tokens))
            self.engine.submit(SimulatedRequest(name, prompt, output_tokens, time.time()))
        return names

    async def until(self, condition: Callable[[], object], *, stepping: bool = True) -> None:
        """Steps the engine until ``condition`` holds."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline_s, "the condition never came to hold"
            if stepping:
                self.engine.step()
            await asyncio.sleep(STEP_S)

    def statistics(self) -> dict[str, Any]:
        return dict(json.loads((self.paths.folder / "statistics.json").read_text()))

    def settings(self, predictor_target: str, scheduler_target: str, **more: str) -> dict[str, str]:
        """The agent's, by name."""
        return {
            "engine_id": ENGINE_ID,
            "shm_root": str(self.root),
            "predictor_target": predictor_target,
            "scheduler_target": scheduler_target,
            "reconnect_max_ms": "400",
            **more,
        }


class AgentProcess:
    """The agent, as its command starts it."""

    def __init__(self, settings: dict[str, str]) -> None:
        self._environment = os.environ | {f"TRAIL_AGENT_{name.upper()}": value for name, value in settings.items()}
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> asyncio.subprocess.Process:
        command = (sys.executable, "-m", "engine_adapter.agent")
        self.process = await asyncio.create_subprocess_exec(
            *command, env=self._environment, stderr=asyncio.subprocess.PIPE
        )
        return self.process

    async def end(self) -> str:
        """SIGTERM; returns what it logged."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        async with asyncio.timeout(PATIENCE_S):
            _, errors = await self.process.communicate()
        return errors.decode()
