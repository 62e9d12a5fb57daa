"""Seeds brought together: means with confidence intervals, and gains over a baseline, paired by seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

FIGURES = (
    "mean_latency_s", "p50_latency_s", "p95_latency_s", "p99_latency_s", "mean_ttft_s", "p99_ttft_s", "mean_tpot_s",
    "mean_slowdown", "max_wait_s", "preemptions", "recomputed_tokens", "mean_kv_blocks",
)  # fmt: skip
GAINS = "mean_latency_s", "p99_latency_s", "mean_ttft_s"
SHOWN = {
    "mean_latency_s": "mean", "p95_latency_s": "p95", "p99_latency_s": "p99", "mean_ttft_s": "TTFT",
    "max_wait_s": "longest\nwait", "preemptions": "pre-\nempted",
}  # fmt: skip
T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""Student's t for 95 %, by degrees of freedom from 1; beyond the last it is as good as 1.96."""

Run = Mapping[str, Any]


def baseline_of(policies: Sequence[str]) -> str:
    """What the others are compared with: FCFS, or the first."""
    return "fcfs" if "fcfs" in policies else policies[0]


def summarise(runs: Sequence[Run], baseline: str) -> list[dict[str, Any]]:
    """One entry for each policy at each load. ``ci95`` is the half width of a 95 % interval of the mean over seeds;
    ``gains`` are the baseline's figure divided by the policy's, a geometric mean over seeds with its interval."""
    cells: dict[tuple[str, float], dict[int, Run]] = {}
    for run in runs:
        cells.setdefault((run["policy"], run["load"]), {})[run["seed"]] = run
    summary = []
    for (policy, load), by_seed in cells.items():
        entry: dict[str, Any] = {"policy": policy, "load": load, "seeds": len(by_seed)}
        means = {name: mean_and_half([run[name] for run in by_seed.values()]) for name in FIGURES}
        entry |= {name: mean for name, (mean, _) in means.items()}
        entry["ci95"] = {name: half for name, (_, half) in means.items()}
        base = cells.get((baseline, load), {})
        entry["gains"] = {name: _gain(base, by_seed, name) for name in GAINS}
        summary.append(entry)
    return summary


def tables_of(summary: Sequence[Mapping[str, Any]], baseline: str) -> list[Table]:
    """For a terminal of 80 columns: figures, and the baseline's divided by each, both with 95 % over seeds."""
    figures = _table("seconds, mean over seeds ± 95 %", SHOWN.values())
    gains = _table(f"{baseline} divided by it, with 95 %", [SHOWN[name] for name in GAINS])
    by_load = sorted(summary, key=lambda each: float(each["load"]))
    for entry, after in zip(by_load, [*by_load[1:], None], strict=True):
        name, last = (f"{entry['load']:.4g}", entry["policy"]), after is None or after["load"] != entry["load"]
        figures.add_row(*name, *(_figure(entry, each) for each in SHOWN), end_section=last)
        gains.add_row(*name, *(_gained(entry["gains"][each]) for each in GAINS), end_section=last)
    return [figures, gains]


def _table(title: str, columns: Iterable[str]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("load", justify="right")
    table.add_column("policy", overflow="fold", min_width=10)
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _figure(entry: Mapping[str, Any], name: str) -> str:
    half = entry["ci95"][name]
    return f"{entry[name]:.3g}" + (f"\n±{half:.2g}" if half is not None else "")


def _gained(gain: Mapping[str, float] | None) -> str:
    if gain is None:
        return "-"
    return f"{gain['ratio']:.2f}" + (f"\n{gain['low']:.2f} to {gain['high']:.2f}" if gain["low"] is not None else "")


def mean_and_half(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and half width of its 95 % interval; None for one value."""
    found = np.array(values, np.float64)
    if len(found) < 2:
        return float(found.mean()), None
    t = T_975[len(found) - 2] if len(found) - 2 < len(T_975) else 1.96
    return float(found.mean()), float(t * found.std(ddof=1) / np.sqrt(len(found)))


def _gain(base: Mapping[int, Run], runs: Mapping[int, Run], name: str) -> dict[str, float | None] | None:
    """Baseline / policy over the seeds that both ran; None where there is none, or a figure is 0."""
    pairs = [(base[seed][name], run[name]) for seed, run in runs.items() if seed in base]
    if not pairs or min(min(pair) for pair in pairs) <= 0:
        return None
    mean, half = mean_and_half([float(np.log(before / after)) for before, after in pairs])
    low, high = (None, None) if half is None else (float(np.exp(mean - half)), float(np.exp(mean + half)))
    return {"ratio": float(np.exp(mean)), "low": low, "high": high}
