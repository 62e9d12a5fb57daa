"""What a plan costs after a step in which a twentieth of the waiting requests was predicted anew.

    python -m benchmarks.planner --out benchmarks/results/planner.json --plot docs/policies/planner-cost.svg
    python -m benchmarks.planner --table benchmarks/results/planner.json

The first takes about a minute; the second prints the table of docs/policies.md. All of it is one thread.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track

from benchmarks import machine
from scheduler_service.choice import PolicyChoice
from scheduler_service.incremental import IncrementalPlanner
from scheduler_service.messages import Declaration, Delta, Epoch, Outcome, Predictions, PublishedMessage, Running
from scheduler_service.planner import PlannerLimits, make_plan
from scheduler_service.state import EngineState
from scheduler_service.view import Capacity

POLICIES = ("trail", "srpt", "gittins", "fcfs", "hrrn")
WAITING = (100, 1_000, 10_000, 100_000)
BARS_MS = {10_000: 1.0, 100_000: 5.0}
"""Most milliseconds that the median plan may take, by waiting requests."""
RUNNING = 256
CHANGED = 0.05
FINISHED_A_STEP = 2
REPEATS, STEPS, WARM_UP_STEPS, WHOLE_EVERY = 7, 40, 10, 10
PROMPT_TOKENS = 200
STEP_S = 0.02
PREFILL_TOKENS_PER_S = 20_000.0
EPOCH = Epoch(1, 1)
SEED = 20

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Cell:
    """Milliseconds of each step: the planner alone; taking in the engine's report, and the predictor's; the planner
    that ranks everybody, at some of the steps."""

    policy: str
    waiting: int
    plan_ms: list[float]
    apply_ms: list[float]
    predictions_ms: list[float]
    whole_ms: list[float]


class Engine:
    """As many waiting requests all the time: whoever enters the batch is followed by a newcomer."""

    def __init__(self, waiting: int, rng: np.random.Generator) -> None:
        self._rng = rng
        self.state = EngineState(Capacity(RUNNING, 65_536, 16, 8192))
        self.now_s, self._step, self._handles = 1.7e9, 0, 0
        living = self._newcomers(waiting + RUNNING)
        batch = np.array([each.handle for each in living[:RUNNING]], np.int64)
        self._running = {
            int(handle): int(age) for handle, age in zip(batch, rng.integers(1, 400, RUNNING), strict=True)
        }
        self.state.apply(self._delta(arrived=living))
        self.state.apply_predictions(self.predictions(np.array([each.handle for each in living])))

    def step(self) -> Delta:
        """What the engine reports: a token each, a few ends, as many that enter, and as many newcomers."""
        ended = self._rng.choice(list(self._running), FINISHED_A_STEP, replace=False).tolist()
        outcomes = tuple(Outcome(handle, "stop", self._running.pop(handle)) for handle in ended)
        self._running = {handle: age + 1 for handle, age in self._running.items()}
        rows = self.state.requests.rows
        for handle in rows["handle"][np.flatnonzero(~rows["running"])[:FINISHED_A_STEP]].tolist():
            self._running[handle] = 0
        self.now_s += STEP_S
        return self._delta(
            arrived=self._newcomers(FINISHED_A_STEP),
            finished=outcomes,
            step_duration_s=(STEP_S + FINISHED_A_STEP * PROMPT_TOKENS / PREFILL_TOKENS_PER_S)
            * float(self._rng.normal(1, 0.03)),
        )

    def predictions(self, handles: Ints) -> PublishedMessage:
        """Remaining lengths for these requests at the ages that they have."""
        ages = np.array([self._running.get(handle, 0) for handle in handles.tolist()], np.int64)
        median = self._rng.lognormal(5, 1, handles.size)
        total = median + ages
        rows = Predictions(
            ages,
            np.where(ages > 0, 3, 1),
            1.3 * median,
            median,
            0.3 * median,
            3 * median,
            total,
            np.where(ages > 0, total, 0),
        )
        return PublishedMessage(EPOCH, self._step, handles.astype(np.uint64), rows)

    def predicted_anew(self) -> PublishedMessage:
        """Everybody who runs, and a twentieth of those who wait."""
        rows = self.state.requests.rows
        waiting = rows["handle"][~rows["running"]]
        some = self._rng.choice(waiting, int(CHANGED * waiting.size), replace=False)
        return self.predictions(np.concatenate([np.array(list(self._running)), some.astype(np.int64)]))

    def _newcomers(self, count: int) -> tuple[Declaration, ...]:
        first = self._handles + 1
        self._handles += count
        return tuple(
            Declaration(handle, f"r{handle}", PROMPT_TOKENS, arrival_s=self.now_s + handle * 1e-6)
            for handle in range(first, first + count)
        )

    def _delta(self, **more: Any) -> Delta:
        self._step += 1
        ages = np.array(list(self._running.values()), np.int64)
        running = Running(np.array(list(self._running), np.uint64), ages, PROMPT_TOKENS + np.maximum(ages - 1, 0))
        return Delta(EPOCH, self._step, running=running, free_kv_blocks=20_000, **more)


def measure(policy: str, waiting: int, seed: int, steps: int = STEPS) -> Cell:
    """Times each part of ``steps`` steps."""
    engine, choice, limits = Engine(waiting, np.random.default_rng(seed)), PolicyChoice(policy), PlannerLimits()
    planner = IncrementalPlanner(engine.state.requests, limits)
    cell = Cell(policy, waiting, [], [], [], [])
    for step in range(-WARM_UP_STEPS, steps):
        delta = engine.step()
        apply_ms, _ = _timed(partial(engine.state.apply, delta))
        message = engine.predicted_anew()
        predictions_ms, _ = _timed(partial(engine.state.apply_predictions, message))
        plan_ms, plan = _timed(lambda: planner.plan(engine.state.view(engine.now_s, choice.overtaking_s), choice))
        if step < 0:
            continue
        cell.apply_ms.append(apply_ms)
        cell.predictions_ms.append(predictions_ms)
        cell.plan_ms.append(plan_ms)
        if step % WHOLE_EVERY == 0:
            view = engine.state.view(engine.now_s, choice.overtaking_s)
            whole_ms, whole = _timed(partial(make_plan, view, choice, limits))
            assert plan.handles.tolist() == whole.handles.tolist()
            cell.whole_ms.append(whole_ms)
    return cell


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    done = work()
    return round((time.perf_counter() - begun) * 1e3, 4), done


def _merged(repeats: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All samples of a cell, and the median of each repeat."""
    merged = dict(repeats[0])
    for name in ("plan_ms", "apply_ms", "predictions_ms", "whole_ms"):
        merged[name] = [sample for repeat in repeats for sample in repeat[name]]
    return merged | {"plan_ms_of_repeats": [round(float(np.median(repeat["plan_ms"])), 4) for repeat in repeats]}


def draw(cells: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Medians with their 10th to 90th percentiles by requests that wait, a line a policy; dotted: ranking everybody."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for policy in dict.fromkeys(cell["policy"] for cell in cells):
        own = [cell for cell in cells if cell["policy"] == policy]
        waiting = [cell["waiting"] for cell in own]
        low, median, high = np.array([np.percentile(cell["plan_ms"], (10, 50, 90)) for cell in own]).T
        (line,) = axes.plot(waiting, median, "o-", label=policy)
        axes.fill_between(waiting, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        whole = [np.median(cell["whole_ms"]) for cell in own]
        axes.plot(waiting, whole, ":", color=line.get_color())
    for count, most_ms in BARS_MS.items():
        axes.plot(count, most_ms, "k_", markersize=18)
    axes.set(
        xscale="log", yscale="log", xlabel="waiting requests", ylabel="milliseconds a plan",
        title=f"{RUNNING} running, {CHANGED:.0%} of the waiting predicted anew",
    )  # fmt: skip
    axes.legend(title="dotted: ranking everybody")
    figure.savefig(path)


def table(cells: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: medians, and the 99th percentile of a plan."""
    rows = [
        "| policy | waiting | plan, ms | of the repeats | p99 | everybody ranked | engine's report | predictions |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cell in cells:
        median = {name: np.median(cell[name]) for name in ("plan_ms", "whole_ms", "apply_ms", "predictions_ms")}
        p99 = np.percentile(cell["plan_ms"], 99)
        repeats = f"{min(cell['plan_ms_of_repeats']):.2f} to {max(cell['plan_ms_of_repeats']):.2f}"
        others = [p99, median["whole_ms"], median["apply_ms"], median["predictions_ms"]]
        told = [f"{median['plan_ms']:.2f}", repeats, *(f"{each:.2f}" for each in others)]
        rows.append(f"| {cell['policy']} | {cell['waiting']:,} | {' | '.join(told)} |")
    return "\n".join(rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, writes and draws, or prints the table of what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON to write")
    parser.add_argument("--plot", type=Path, help="figure to draw")
    parser.add_argument("--table", type=Path, help="print the table of this JSON and do nothing else")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps timed in each repeat of a cell")
    options = parser.parse_args(argv)
    if options.table:
        print(table(json.loads(options.table.read_text())["cells"]))
        return
    if not options.out:
        parser.error("--out or --table is needed")
    of = [(policy, waiting) for waiting in WAITING for policy in POLICIES]
    told = Console(stderr=True)
    # In turn, for the machine is not the same from one minute to the next.
    turns = [(each, repeat) for repeat in range(REPEATS) for each in of]
    measured = [asdict(measure(*each, SEED + repeat, options.steps)) for each, repeat in track(turns, console=told)]
    cells = [_merged([cell for cell in measured if (cell["policy"], cell["waiting"]) == each]) for each in of]
    results = {
        "what": f"Milliseconds a plan, {RUNNING} running, {CHANGED:.0%} of the waiting predicted anew in each step",
        **machine.provenance("numpy"),
        "seed": SEED,
        "bars_ms": BARS_MS,
        "cells": cells,
    }
    machine.write(options.out, results)
    if options.plot:
        draw(cells, options.plot)
    print(table(cells))


if __name__ == "__main__":
    main()
