"""What the adapter costs a real engine: decode steps of stock vLLM and of the attached engine, in turn.

    python -m benchmarks.overhead --llm DIR --shape 135m --batch 1,32,256 --out benchmarks/results/overhead-h100.json
    python -m benchmarks.overhead --shape 8b --dummy --batch 1,32,256 --out benchmarks/results/overhead-h100.json

Both engines live at once. A measurement is a batch of random 16-token prompts that all decode --steps tokens, whatever
they say; its step time is the median of the intervals between the engine's outputs, by its own clock, while all run,
without the first and last ten. What the tap ships is predicted, and plans are made, by
the policy fcfs. Each batch is written as it ends, into the shapes that the file holds already; one that it holds is
not measured again, unless --again. Joules are those of the whole GPU, by NVML's counter, over the same steps.
Without --llm the shape is a configuration of ours with random weights; a predictor of random weights reads its middle
layer.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine, random_llm
from benchmarks.gpu_engines import Engine, Engines, EngineShape, Sampled, running
from benchmarks.power import EnergyMeter
from benchmarks.serving import PACKAGES, agent_changes
from scheduler_service.choice import PolicyChoice

PROMPT_TOKENS = 16
DROPPED = 10
"""Steps at either end of a measurement that do not count."""
WARM_UP_STEPS = 40
TOLD = ("rows_shipped", "rows_dropped", "row_records_dropped", "row_errors", "predictions_received", "plans_received",
        "plans_applied", "fail_open_steps", "steps")  # fmt: skip
FCFS = PolicyChoice(policy="fcfs")
KV_GIB = {"8b": 10.0, "135m": 4.0, "tiny": 0.25}
STEPS = {"8b": 120, "135m": 220, "tiny": 60}


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement."""

    step_ms: float
    steps: int
    joules: float | None
    tokens: int
    """Within the steps that count."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, writes JSON after each batch, prints what was found."""
    options = _options(argv)
    batches = [int(batch) for batch in options.batch.split(",")]
    kept = json.loads(options.out.read_text()) if options.out.is_file() else {"shapes": {}}
    adapter = {
        name: value
        for name, value in (("predict_every_tokens", options.every), ("tap_share", options.tap_share))
        if value is not None
    }
    name = "-".join((options.shape, *(f"{name}-{value:g}" for name, value in adapter.items())))
    there = kept["shapes"].get(name, {})
    missing = [batch for batch in batches if options.again or str(batch) not in there]
    if not missing:
        print("all is there", file=sys.stderr)
        return
    steps = options.steps or STEPS[options.shape]
    with tempfile.TemporaryDirectory(prefix="trail-") as scratch, contextlib.ExitStack() as parts:
        llm, artefact, model_dir = random_llm.served(options.llm, options.shape, Path(scratch))
        shape = EngineShape(
            llm, max(batches), PROMPT_TOKENS + steps + WARM_UP_STEPS, options.step_tokens,
            int(KV_GIB[options.shape] * 2**30), dummy=options.dummy or options.llm is None,
        )  # fmt: skip
        logs = options.out.parent / "logs" if options.logs is None else options.logs
        engines = parts.enter_context(running(
            shape, logs, artefact=artefact, model_dir=model_dir, adapter=adapter,
            one_by_one=options.one_by_one, turn=options.turn,
        ))  # fmt: skip
        engines.set_policy(FCFS)
        vocabulary = json.loads((llm / "config.json").read_text())["vocab_size"]
        driver = _Driver(engines, vocabulary, steps, options.repeats)
        asyncio.run(_measure(driver, missing, name, options.out))


async def _measure(driver: "_Driver", batches: Sequence[int], name: str, out: Path) -> None:
    for batch in batches:
        found = await driver.compare(batch)
        _add(out, name, batch, found)
        print(f"{name}, batch {batch}: stock {found['stock_ms']:.3f} ms, attached {found['attached_ms']:.3f} ms, "
              f"ratio {found['ratio']:.4f}, rows lost {found['rows_lost']}", file=sys.stderr, flush=True)  # fmt: skip


def _add(out: Path, name: str, batch: int, found: Mapping[str, Any]) -> None:
    """Another driver may have written since: whoever writes reads what is there."""
    shapes = json.loads(out.read_text())["shapes"] if out.is_file() else {}
    shapes.setdefault(name, {})[str(batch)] = found
    results = {
        "what": "Milliseconds of a decode step, stock vLLM and attached; medians over repeats",
        **machine.provenance(*PACKAGES),
        "shapes": shapes,
        "energy": {
            shape: {size: each["joules_per_1000_tokens"] for size, each in sizes.items()}
            for shape, sizes in shapes.items()
        },
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    machine.write(out, results)


@dataclass(frozen=True, slots=True)
class _Driver:
    engines: Engines
    vocabulary: int
    steps: int
    repeats: int

    async def compare(self, batch: int) -> dict[str, Any]:
        """Both engines, `repeats` times each; which of them begins alternates."""
        both = [self.engines.stock, self.engines.attached]
        meter = EnergyMeter()
        samples: dict[str, list[Sample]] = {engine.name: [] for engine in both}
        for engine in both:
            await self._decode(engine, batch, WARM_UP_STEPS, 0, meter)
        counters: list[dict[str, float]] = []
        for repeat in range(self.repeats):
            for engine in both if repeat % 2 == 0 else both[::-1]:
                before = self.engines.agent() if engine is self.engines.attached else {}
                samples[engine.name].append(await self._decode(engine, batch, self.steps, repeat + 1, meter))
                if before:
                    changes = agent_changes(before, self.engines.agent())
                    counters.append({name: changes["counters"][name] for name in TOLD})
        stock, attached = samples["stock"], samples["attached"]
        ratios = [a.step_ms / s.step_ms for s, a in zip(stock, attached, strict=True)]
        totals = {name: sum(each[name] for each in counters) for name in TOLD}
        return {
            "stock_ms": _median([each.step_ms for each in stock]),
            "attached_ms": _median([each.step_ms for each in attached]),
            "ratio": round(_median([a.step_ms for a in attached]) / _median([s.step_ms for s in stock]), 5),
            "ratio_least": round(min(ratios), 5),
            "ratio_most": round(max(ratios), 5),
            "rows_lost": totals["row_records_dropped"],
            "rows_replaced": totals["rows_dropped"],
            "rows_computed": batch * self.repeats * self.steps,
            "agent": totals,
            "steps": self.steps,
            "samples": {name: [each.step_ms for each in found] for name, found in samples.items()},
            "steps_counted": {name: [each.steps for each in found] for name, found in samples.items()},
            "joules_per_1000_tokens": {name: _energy(found) for name, found in samples.items()},
            "tap": self.engines.tap,
            "measured": machine.provenance(*PACKAGES),
        }

    async def _decode(self, engine: Engine, batch: int, steps: int, seed: int, meter: EnergyMeter) -> Sample:
        prompts = np.random.default_rng([batch, seed]).integers(10, self.vocabulary, (batch, PROMPT_TOKENS)).tolist()
        sampled = Sampled(steps, ignore_eos=True)
        await engine.forget_prefixes()
        engine.log.clear()
        start = time.monotonic_ns()
        with meter.running():
            await asyncio.gather(*(engine.answer(f"{start}-{i}", each, sampled) for i, each in enumerate(prompts)))
        return sample_of(engine.log.tokens, engine.log.interval_s, engine.log.at_s, batch, meter)


def sample_of(
    tokens: Sequence[int], interval_s: Sequence[float], at_s: Sequence[float], batch: int, meter: EnergyMeter
) -> Sample:
    """Of the steps in which all `batch` requests had a token, without those at the ends.

    Raises RuntimeError where that leaves none.
    """
    whole = [index for index, count in enumerate(tokens) if count == batch and not np.isnan(interval_s[index])]
    counted = whole[DROPPED:-DROPPED]
    if len(counted) < 2:
        raise RuntimeError(f"only {len(whole)} of {len(tokens)} steps had all {batch} requests in them: more --steps")
    step_ms = 1000 * float(np.median([interval_s[index] for index in counted]))
    first, last = counted[0], counted[-1]
    joules = meter.joules(at_s[first], at_s[last])
    return Sample(round(step_ms, 5), len(counted), joules, sum(tokens[first + 1 : last + 1]))


def _energy(samples: Sequence[Sample]) -> float | None:
    """Joules for 1,000 tokens, over all repeats."""
    known = [each for each in samples if each.joules is not None]
    if not known:
        return None
    return round(1000 * sum(each.joules or 0.0 for each in known) / sum(each.tokens for each in known), 3)


def _median(values: Sequence[float]) -> float:
    return round(float(np.median(values)), 5)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llm", type=Path, help="folder of the model; without: a configuration of ours")
    parser.add_argument("--shape", choices=sorted(KV_GIB), required=True)
    parser.add_argument("--dummy", action="store_true", help="random weights")
    parser.add_argument("--batch", default="1,32,256")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, help="tokens that each request decodes")
    parser.add_argument("--every", type=int, help="K: a row is shipped at every K-th token")
    parser.add_argument("--tap-share", type=float, help="of the engine's thread that the tap may take; 1: every step")
    parser.add_argument("--step-tokens", type=int, default=8192)
    parser.add_argument("--again", action="store_true", help="measure also what the file holds")
    parser.add_argument("--one-by-one", action="store_true", help="start the engines in turn")
    parser.add_argument("--turn", type=Path, help="file that drivers on one GPU take turns by: all start, one measures")
    parser.add_argument("--logs", type=Path, help="folder of the services' logs; default: beside --out")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of results")
    options = parser.parse_args(argv)
    if options.shape == "135m" and options.llm is None:
        parser.error("--shape 135m: needs --llm")
    return options


if __name__ == "__main__":
    main()
