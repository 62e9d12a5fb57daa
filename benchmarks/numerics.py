"""Greedy outputs on a GPU change no more than stock vLLM's own do: where they differ, two tokens were as likely.

    python -m benchmarks.numerics --llm DIR --prompts FILE --out benchmarks/results/numerics-h100.json

On a GPU the sums of a matrix product depend on the size of the batch, so that one request may get another token beside
other requests, where the two best are nearly alike; from there on its text is another. So stock answers the prompts
twice, in two orders, and the attached engine with policies that preempt whenever anybody shorter waits, by predictions
that were exchanged between requests. For each output that differs from stock's first, the margin in log-probability of
stock's token over the next best, where the two part: no preemption is at fault where that is next to nothing, and as
for stock itself. Slots are few, so that there is much to preempt.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine, unseen_prompts
from benchmarks.gpu_engines import Engine, Engines, EngineShape, running
from benchmarks.identity import EAGER, POLICIES
from benchmarks.serving import PACKAGES
from benchmarks.unseen_prompts import ARTEFACT
from scheduler_service.choice import PolicyChoice

SPREAD_S = 0.01
"""Between two arrivals."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Tokens, and by how much each one's log-probability is above the next best's."""

    tokens: tuple[int, ...]
    margins: tuple[float, ...]


def main(argv: Sequence[str] | None = None) -> None:
    """Compares, writes JSON, prints what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llm", type=Path, required=True, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--prompts", type=Path, required=True, help="JSONL of `benchmarks.serving --prepare`")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of results")
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--kv-gib", type=float, default=2.0)
    parser.add_argument("--turn", type=Path, help="file that drivers on one GPU take turns by: all start, one measures")
    options = parser.parse_args(argv)
    prompts = unseen_prompts.load(options.prompts)[: options.requests]
    model_tokens = max(map(len, prompts)) + options.max_tokens
    shape = EngineShape(options.llm, options.slots, model_tokens, max(8192, model_tokens), int(options.kv_gib * 2**30))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with running(shape, options.out.parent / "logs", artefact=ARTEFACT, turn=options.turn) as engines:
        runs = asyncio.run(_compare(engines, prompts, options.seeds, options.max_tokens))
    results = {
        "what": "Greedy outputs that differ from stock vLLM's, and the margin of stock's token where they part",
        **machine.provenance(*PACKAGES),
        "requests": len(prompts),
        "slots": options.slots,
        "max_tokens": options.max_tokens,
        "runs": runs,
    }
    machine.write(options.out, results)
    for run in runs:
        widest = max(run["margins"], default=0.0)
        print(f"{run['engine']} {run['policy']}: {len(run['margins'])} of {len(prompts)} outputs differ, "
              f"margin at most {widest:.3f}, {run['preemptions']} preemptions")  # fmt: skip


async def _compare(
    engines: Engines, prompts: Sequence[Sequence[int]], seeds: int, max_tokens: int
) -> list[dict[str, Any]]:
    first = await _answers(engines.stock, prompts, range(len(prompts)), max_tokens)
    runs = []
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(prompts)).tolist()
        for engine in (engines.stock, engines.attached):
            policy = ""
            if engine is engines.attached:
                policy = POLICIES[seed % len(POLICIES)]
                engines.set_policy(PolicyChoice(policy=policy, predictor="shuffled", **EAGER))
            found = await _answers(engine, prompts, order, max_tokens)
            parted = [margin_where_parted(mine, its) for mine, its in zip(first, found, strict=True)]
            margins = [round(margin, 5) for margin in parted if margin is not None]
            preemptions = engine.log.preemptions
            runs.append(
                {"engine": engine.name, "policy": policy, "seed": seed, "preemptions": preemptions, "margins": margins}
            )
            print(f"{engine.name} {policy} {seed}: {len(margins)} differ", file=sys.stderr, flush=True)
    return runs


async def _answers(
    engine: Engine, prompts: Sequence[Sequence[int]], order: Sequence[int], max_tokens: int
) -> list[Answer]:
    """Of each prompt; they are sent in this order."""
    await engine.forget_prefixes()
    engine.log.clear()
    tasks = {}
    for index in order:
        tasks[index] = asyncio.create_task(_answer(engine, f"{id(order)}-{index}", prompts[index], max_tokens))
        await asyncio.sleep(SPREAD_S)
    return [await tasks[index] for index in range(len(prompts))]


async def _answer(engine: Engine, request_id: str, prompt: Sequence[int], max_tokens: int) -> Answer:
    from vllm import SamplingParams
    from vllm.inputs import tokens_input
    from vllm.sampling_params import RequestOutputKind

    greedy = SamplingParams(
        temperature=0.0, max_tokens=max_tokens, logprobs=2, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY
    )
    last: Any = None
    async for output in engine.llm.generate(tokens_input(list(prompt)), greedy, request_id):
        last = output
    answer = last.outputs[0]
    margins = []
    for token, told in zip(answer.token_ids, answer.logprobs, strict=True):
        others = [each.logprob for other, each in told.items() if other != token]
        margins.append(told[token].logprob - max(others))
    return Answer(tuple(answer.token_ids), tuple(margins))


def margin_where_parted(stock: Answer, other: Answer) -> float | None:
    """Of stock's token at the first place where the two differ; None where they do not."""
    for mine, its, margin in zip(stock.tokens, other.tokens, stock.margins, strict=False):
        if mine != its:
            return margin
    return (
        None if len(stock.tokens) == len(other.tokens) else stock.margins[min(len(stock.tokens), len(other.tokens)) - 1]
    )


if __name__ == "__main__":
    main()
