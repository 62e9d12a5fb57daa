"""Figures of `benchmarks.serving`: latencies against load, one line an arm, its range over seeds shaded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

TITLES = {
    "mean_latency_s": "mean latency, s",
    "p99_latency_s": "p99 latency, s",
    "mean_ttft_s": "mean TTFT, s",
    "p99_ttft_s": "p99 TTFT, s",
}


def draw(summary: Mapping[str, Any], folder: Path) -> None:
    """Writes an SVG for each group of cells into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for group in summary["groups"]:
        blocks = f"-blocks{group['kv_blocks']}" if group["kv_blocks"] else ""
        name = f"serving-{group['regime']}-slots{group['slots']}{blocks}-{group['arrivals'].replace(':', '')}"
        _by_load(group).savefig(folder / f"{name}.svg")


def _by_load(group: Mapping[str, Any]) -> Figure:
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    loads = group["loads"]
    arms = dict.fromkeys(arm for found in loads.values() for arm in found)
    for axes, (name, title) in zip(figure.subplots(1, len(TITLES)), TITLES.items(), strict=True):
        for arm in arms:
            of_arm = {float(load): found[arm] for load, found in loads.items() if arm in found}
            points = [(load, _over_seeds(of_arm[load], name)) for load in sorted(of_arm)]
            at = [load for load, _ in points]
            (line,) = axes.plot(at, [mean for _, (mean, _, _) in points], "o-", label=arm)
            low, high = [low for _, (_, low, _) in points], [high for _, (_, _, high) in points]
            axes.fill_between(at, low, high, color=line.get_color(), alpha=0.2)
        axes.set(xlabel="load", title=title, yscale="log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    axes.legend(fontsize="x-small")
    return figure


def _over_seeds(found: Mapping[str, Any], name: str) -> tuple[float, float, float]:
    values = [each[name] for each in found["seeds"].values()]
    return sum(values) / len(values), min(values), max(values)
