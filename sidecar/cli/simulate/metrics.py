"""One run's figures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sidecar.cli.simulate.ledger import Ledger
from sidecar.cli.simulate.setup import EngineSetup
from sidecar.cli.simulate.workload import Floats, Ints, Workload

BUCKETS = (32, 128, 512)
"""Output tokens up to which a request belongs to a length bucket; the last bucket is open."""


@dataclass(frozen=True, slots=True)
class RunMetrics:
    """Seconds and counts over all requests of a run.

    Slowdown is latency divided by what the request would take alone on the engine. A wait is the time in the waiting
    queue, after preemptions too. TPOT is the time from the first to the last token, by tokens after the first.
    Fairness is Jain's index (1: all alike) of the mean slowdowns of tenants; None for fewer than two.
    """

    mean_latency_s: float
    p50_latency_s: float
    p95_latency_s: float
    p99_latency_s: float
    max_latency_s: float
    mean_ttft_s: float
    p50_ttft_s: float
    p95_ttft_s: float
    p99_ttft_s: float
    mean_tpot_s: float
    p99_tpot_s: float
    mean_slowdown: float
    p99_slowdown: float
    slowdown_by_output_tokens: dict[str, float | None]
    mean_wait_s: float
    p99_wait_s: float
    max_wait_s: float
    preemptions: int
    evictions: int
    recomputed_tokens: int
    prefix_cached_tokens: int
    mean_kv_blocks: float
    max_kv_blocks: int
    jain_slowdown: float
    jain_tenants: float | None
    requests: int
    output_tokens: int
    steps: int
    makespan_s: float
    tokens_per_s: float


def measure(workload: Workload, ledger: Ledger, setup: EngineSetup) -> RunMetrics:
    """Sums a finished run up."""
    output = workload.output_tokens
    latency_s = ledger.finished_s - workload.arrival_s
    ttft_s = ledger.first_token_s - workload.arrival_s
    several = output > 1
    tpot_s = (ledger.finished_s - ledger.first_token_s)[several] / (output[several] - 1)
    slowdown = latency_s / alone_s(workload, setup)
    step_s, kv_blocks = np.array(ledger.step_s), np.array(ledger.kv_blocks)
    makespan_s = float(ledger.finished_s.max() - workload.arrival_s[0])
    return RunMetrics(
        mean_latency_s=float(latency_s.mean()),
        p50_latency_s=_percentile(latency_s, 50),
        p95_latency_s=_percentile(latency_s, 95),
        p99_latency_s=_percentile(latency_s, 99),
        max_latency_s=float(latency_s.max()),
        mean_ttft_s=float(ttft_s.mean()),
        p50_ttft_s=_percentile(ttft_s, 50),
        p95_ttft_s=_percentile(ttft_s, 95),
        p99_ttft_s=_percentile(ttft_s, 99),
        mean_tpot_s=float(tpot_s.mean()) if tpot_s.size else 0.0,
        p99_tpot_s=_percentile(tpot_s, 99),
        mean_slowdown=float(slowdown.mean()),
        p99_slowdown=_percentile(slowdown, 99),
        slowdown_by_output_tokens=_by_bucket(output, slowdown),
        mean_wait_s=float(ledger.wait_s.mean()),
        p99_wait_s=_percentile(ledger.wait_s, 99),
        max_wait_s=float(ledger.wait_s.max()),
        preemptions=int(ledger.preemptions.sum()),
        evictions=ledger.evictions,
        recomputed_tokens=int(ledger.recomputed_tokens.sum()),
        prefix_cached_tokens=int(ledger.cached_tokens.sum()),
        mean_kv_blocks=float((kv_blocks * step_s).sum() / step_s.sum()),
        max_kv_blocks=int(kv_blocks.max()),
        jain_slowdown=jain(slowdown),
        jain_tenants=_between_tenants(workload.tenants, slowdown),
        requests=len(workload),
        output_tokens=int(output.sum()),
        steps=len(ledger.step_s),
        makespan_s=makespan_s,
        tokens_per_s=float(output.sum() / makespan_s),
    )


def alone_s(workload: Workload, setup: EngineSetup) -> Floats:
    """[N] seconds that each request would take on an engine that serves nobody else and has nothing cached."""
    prompt, decodes = workload.prompt_tokens.astype(np.float64), workload.output_tokens - 1.0
    budget, time = setup.token_budget, setup.step_time
    chunks = np.ceil(prompt / budget)
    in_prefill = (time.a_s + time.b_s + time.e_s) * chunks + time.c_s * prompt
    # With each chunk there are as many KV entries as it and the chunks before it made.
    in_prefill += time.d_s * (budget * chunks * (chunks - 1) / 2 + prompt)
    kv_tokens = decodes * prompt + decodes * (decodes + 1) / 2
    seconds: Floats = in_prefill + (time.a_s + time.b_s) * decodes + time.d_s * kv_tokens
    return seconds


def jain(values: Floats) -> float:
    """Jain's fairness index: (sum x)^2 / (n * sum x^2)."""
    return float(values.sum() ** 2 / (len(values) * (values**2).sum()))


def _percentile(values: Floats, percent: float) -> float:
    return float(np.percentile(values, percent)) if values.size else 0.0


def _by_bucket(output: Ints, slowdown: Floats) -> dict[str, float | None]:
    names = [*(f"<={edge}" for edge in BUCKETS), f">{BUCKETS[-1]}"]
    return dict(zip(names, means_by_bucket(output, slowdown), strict=True))


def means_by_bucket(output: Ints, values: Floats) -> list[float | None]:
    """[len(BUCKETS) + 1] the mean of the values in each length bucket; None for an empty one."""
    bucket = np.searchsorted(BUCKETS, output, side="left")
    parts = [values[bucket == number] for number in range(len(BUCKETS) + 1)]
    return [float(part.mean()) if part.size else None for part in parts]


def _between_tenants(tenants: tuple[str, ...], slowdown: Floats) -> float | None:
    names, number = np.unique(np.array(tenants), return_inverse=True) if tenants else (np.zeros(0), np.zeros(0, int))
    if len(names) < 2:
        return None
    return jain(np.bincount(number, slowdown) / np.bincount(number))
