"""``python -m sidecar.cli.load.worker OPTIONS NUMBER``: some of a load's engines, with an agent each.

It writes a report a line, half a second apart, until it is told to end, and one at the end.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from engine_adapter.agent.process import Agent
from engine_adapter.agent.settings import AgentSettings
from engine_adapter.paths import engine_paths
from sidecar import log
from sidecar.cli.load.engine import LoadEngine
from sidecar.cli.load.options import LoadOptions
from sidecar.cli.load.plan_watch import PlanWatch
from sidecar.dial import ClientSettings
from sidecar.stopping import until_told

REPORT_S = 0.5


class Part:
    """One engine and its agent."""

    def __init__(self, engine_id: str, options: LoadOptions, root: Path, seed: int) -> None:
        self.watch = PlanWatch(engine_id)
        self.engine = LoadEngine(engine_id, options, root, seed, self.watch)
        settings = AgentSettings(
            engine_id=engine_id, shm_root=root, model=options.model, projection=options.projection,
            predictor_target=options.predictor, scheduler_target=options.scheduler,
            **ClientSettings().model_dump(),
        )  # fmt: skip
        self.agent = Agent(settings, engine_paths(engine_id, root), self.watch)
        self._step_s = options.step_ms / 1000

    async def step(self, engines: int) -> None:
        """Steps for ever. A step that is late is not made up for, and all `engines` of this process together take at
        most half of its time: their agents need the other half."""
        due_s = time.perf_counter()
        while True:
            begun_s = time.perf_counter()
            self.engine.advance()
            now_s = time.perf_counter()
            due_s = max(due_s + self._step_s, now_s + 2 * engines * (now_s - begun_s))
            await asyncio.sleep(due_s - now_s)

    def close(self) -> None:
        self.engine.close()


async def run(options: LoadOptions, number: int) -> None:
    """Serves every `processes`-th engine from `number` on."""
    stop = asyncio.Event()
    folders = tempfile.TemporaryDirectory(prefix="trail-load-", dir=_shared_memory())
    with folders as folder, until_told(stop, exit_with_parent=True):
        mine = range(number, options.engines, options.processes)
        parts = [Part(f"{options.prefix}-{each}", options, Path(folder), options.seed + each) for each in mine]
        agents = [asyncio.create_task(part.agent.serve(stop)) for part in parts]
        engines = [asyncio.create_task(part.step(len(parts))) for part in parts]
        try:
            while not stop.is_set():
                _report(parts)
                await asyncio.wait([*agents, *engines], timeout=REPORT_S, return_when=asyncio.FIRST_COMPLETED)
                for task in (*agents, *engines):
                    if task.done():
                        task.result()
            _report(parts)
        finally:
            stop.set()
            for task in engines:
                task.cancel()
            await asyncio.gather(*agents, *engines, return_exceptions=True)
            for part in parts:
                await part.agent.close()
                part.close()


def _report(parts: list[Part]) -> None:
    """Sums over the engines; counts only rise, latencies and gaps are those since the last report."""
    counts: Counter[str] = Counter()
    ages = np.zeros_like(parts[0].watch.age_histogram)
    connected, latencies, gaps = 0, [], []
    for part in parts:
        found = part.agent.snapshot()
        counts.update(found["counters"])
        engine = part.engine
        counts.update(stepped=engine.stepped, submitted=engine.submitted, ended=engine.finished, alive=engine.living)
        connected += all(found["connected"].values())
        ages += part.watch.age_histogram
        of_part = part.watch.take()
        latencies += of_part[0]
        gaps += of_part[1]
    report: dict[str, Any] = {
        "at_s": time.monotonic(),
        "counts": counts,
        "connected": connected,
        "ages": np.trim_zeros(ages, "b").tolist(),
        "latencies_ms": [round(each, 3) for each in latencies],
        "gaps": gaps,
        "silent_s": max(part.watch.silent_s for part in parts),
    }
    print(json.dumps(report), flush=True)


def _shared_memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a private folder below it


if __name__ == "__main__":
    log.configure("error", "console")
    uvloop.run(run(LoadOptions(**json.loads(sys.argv[1])), int(sys.argv[2])))
