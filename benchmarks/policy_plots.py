"""Figures of `benchmarks.policies`: the frontier of mean against tail, and how policies fare by load."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

Runs = Sequence[Mapping[str, Any]]


def draw(studies: Mapping[str, Any], folder: Path) -> None:
    """Writes an SVG for each figure that ``studies`` hold the runs of."""
    folder.mkdir(parents=True, exist_ok=True)
    if "frontier" in studies:
        _frontier(studies["frontier"]["runs"]).savefig(folder / "frontier.svg")
    for name in ("loads", "kv", "kv-h100", "azure", "mooncake", "measured"):
        if name in studies:
            more = studies["main"]["runs"] if name == "loads" and "main" in studies else []
            _by_load([*studies[name]["runs"], *more]).savefig(folder / f"{name}.svg")


def mean_of(runs: Runs, policy: str, load: float, figure: str) -> float:
    """Over the seeds of one cell."""
    return float(np.mean([run[figure] for run in runs if run["policy"] == policy and run["load"] == load]))


def _frontier(runs: Runs) -> Figure:
    """Mean latency against p99, one line for each kind of aging."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    load = runs[0]["load"]
    lines: dict[str, list[str]] = defaultdict(list)
    for policy in dict.fromkeys(run["policy"] for run in runs):
        kind = "linear aging" if "linear" in policy else "exponential aging" if "aging_s" in policy else policy
        lines[kind].append(policy)
    for kind, policies in lines.items():
        points = [
            [mean_of(runs, each, load, name) for name in ("mean_latency_s", "p99_latency_s")] for each in policies
        ]
        mean_s, p99_s = np.array(points).T
        axes.plot(mean_s, p99_s, "o-" if len(policies) > 1 else "s", label=kind)
    axes.set(xlabel="mean latency, s", ylabel="p99 latency, s", title=f"load {load:g}")
    axes.legend()
    return figure


def _by_load(runs: Runs) -> Figure:
    """Mean latency, mean TTFT and p99 latency as shares of first come, first served."""
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    loads = sorted({run["load"] for run in runs})
    names = {"mean_latency_s": "mean latency", "mean_ttft_s": "mean TTFT", "p99_latency_s": "p99 latency"}
    for axes, (name, title) in zip(figure.subplots(1, 3), names.items(), strict=True):
        for policy in dict.fromkeys(run["policy"] for run in runs):
            of_fcfs = [mean_of(runs, policy, load, name) / mean_of(runs, "fcfs", load, name) for load in loads]
            axes.plot(loads, of_fcfs, "o-", label=policy)
        axes.set(xlabel="load", title=f"{title} / FCFS")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    axes.legend(fontsize="x-small")
    return figure
