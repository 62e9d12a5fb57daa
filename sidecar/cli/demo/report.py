"""The demo's result: JSON, a table and a plot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from sidecar.cli.demo.arms import ARMS, STOCK
from sidecar.cli.demo.load import Sample


@dataclass(frozen=True, slots=True)
class Run:
    """One arm, once: what the clients saw and what the engine and the agent counted."""

    samples: list[Sample]
    preemptions: int
    agent: dict[str, float]
    """Differences of the agent's counters; empty for stock."""
    prediction_ages: list[int]
    """Entry a: how often a prediction was a tokens old when it was used."""

    @property
    def output_tokens(self) -> list[int]:
        """Of each request, in the order of sending."""
        return [sample.output_tokens for sample in self.samples]


def metrics(run: Run) -> dict[str, float]:
    """One run's figures; seconds and counts."""
    latency = np.array([sample.latency_s for sample in run.samples])
    first = np.array([sample.time_to_first_token_s for sample in run.samples])
    return {
        "mean_latency_s": float(latency.mean()),
        "p50_latency_s": float(np.percentile(latency, 50)),
        "p95_latency_s": float(np.percentile(latency, 95)),
        "p99_latency_s": float(np.percentile(latency, 99)),
        "mean_ttft_s": float(first.mean()),
        "p50_ttft_s": float(np.percentile(first, 50)),
        "p95_ttft_s": float(np.percentile(first, 95)),
        "p99_ttft_s": float(np.percentile(first, 99)),
        "preemptions": run.preemptions,
    }


def build(runs: Mapping[str, Sequence[Run]], about: dict[str, Any]) -> dict[str, Any]:
    """The report; every figure of an arm is the median of its repeats, and the repeats are kept beside it."""
    policies: dict[str, dict[str, Any]] = {}
    for name, repeats in runs.items():
        each = [metrics(run) for run in repeats]
        policies[name] = {key: float(np.median([one[key] for one in each])) for key in each[0]}
        policies[name] |= {"repeats": each, "agent": _total(repeats), "prediction_age_tokens_p50": _median_age(repeats)}
        policies[name]["prediction_error_tokens"] = _share(
            policies[name]["agent"], "absolute_error_tokens_sum", "finished_predictions"
        )
    trail = policies["trail"]["agent"]
    return about | {
        "embeddings_shipped": int(sum(policies[name]["agent"].get("rows_shipped", 0) for name in policies)),
        "predictions_used": int(trail.get("predictions_used", 0)),
        "refined_share": _share(trail, "refined_predictions_used", "predictions_used_past_first_token"),
        "prediction_age_steps_p50": policies["trail"]["prediction_age_tokens_p50"],
        "plans_applied": int(trail.get("plans_applied", 0)),
        "policies": policies,
    }


def write(report: dict[str, Any], runs: Mapping[str, Sequence[Run]], folder: Path) -> None:
    """``report.json`` and ``report.png`` in ``folder``."""
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    _plot(report, runs, folder / "report.png")


def show(report: dict[str, Any], console: Console) -> None:
    """The table and what to make of it."""
    policies, stock = report["policies"], report["policies"][STOCK]
    # Without borders nine columns fit a terminal of 80.
    title = f"{report['requests']} requests an arm, median of {report['repeats']} repeats, seconds"
    times = Table(title=title, box=box.SIMPLE_HEAD, padding=0)
    counts = Table(title="what the engine and the agent counted", box=box.SIMPLE_HEAD, padding=0)
    percentiles = ("mean", "p50", "p95", "p99")
    for table, heads in (
        (times, ("arm", *(f"latency\n{key}" for key in percentiles), *(f"TTFT\n{key}" for key in percentiles))),
        (counts, ("arm", "preemptions\na run", "embeddings\nshipped", "prediction age\np50, steps", "error\ntokens")),
    ):
        for head in heads:
            table.add_column(head, justify="left" if head == "arm" else "right")
    for arm in ARMS:
        figures = policies[arm.name]
        each = [figures[f"{key}_{what}_s"] for what in ("latency", "ttft") for key in percentiles]
        times.add_row(arm.name, *(f"{value:.2f}" for value in each))
        counts.add_row(
            arm.name, f"{figures['preemptions']:.0f}", f"{figures['agent'].get('rows_shipped', 0):.0f}",
            _number(figures["prediction_age_tokens_p50"], 0), _number(figures["prediction_error_tokens"], 0),
        )  # fmt: skip
    console.print(times, counts)
    for arm in ARMS[1:]:
        figures = policies[arm.name]
        console.print(
            f"{arm.name:12} latency x {figures['mean_latency_s'] / stock['mean_latency_s']:.2f}, "
            f"TTFT x {figures['mean_ttft_s'] / stock['mean_ttft_s']:.2f} of stock's   [dim]{arm.what}[/]",
            highlight=False,
            soft_wrap=True,
        )


def _total(repeats: Sequence[Run]) -> dict[str, float]:
    names = repeats[0].agent
    return {name: sum(run.agent.get(name, 0) for run in repeats) for name in names}


def _median_age(repeats: Sequence[Run]) -> float | None:
    ages = [age for run in repeats for age, times in enumerate(run.prediction_ages) for _ in range(times)]
    return float(np.median(ages)) if ages else None


def _share(counts: Mapping[str, float], part: str, whole: str) -> float | None:
    return counts[part] / counts[whole] if counts.get(whole) else None


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _plot(report: dict[str, Any], runs: Mapping[str, Sequence[Run]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    names = [arm.name for arm in ARMS]
    at = np.arange(len(names))
    for offset, key, label in ((-0.2, "mean_latency_s", "mean latency"), (0.2, "mean_ttft_s", "mean TTFT")):
        left.bar(at + offset, [report["policies"][name][key] for name in names], 0.38, label=label)
        for x, name in zip(at + offset, names, strict=True):
            values = [one[key] for one in report["policies"][name]["repeats"]]
            left.plot([x] * len(values), values, "k.", markersize=4)
    left.set_xticks(at, names)
    left.set_ylabel("seconds (dots: repeats)")
    left.legend()
    for name in names:
        latency = np.sort([sample.latency_s for run in runs[name] for sample in run.samples])
        right.plot(latency, np.arange(1, len(latency) + 1) / len(latency), label=name)
    right.set_xlabel("latency, seconds")
    right.set_ylabel("share of requests")
    right.grid(alpha=0.3)
    right.legend()
    engine = report["engine"]
    figure.suptitle(
        f"{report['model']} on {engine['name']} {engine['version']}: "
        f"{report['requests']} requests an arm, {report['repeats']} repeats"
    )
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
