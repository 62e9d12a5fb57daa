"""Tables of `benchmarks.policies` for docs/policies.md: what was asked of the default policy, and how all fare."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.policy_plots import mean_of

Study = Mapping[str, Any]
MEAN, P99, TTFT = "mean_latency_s", "p99_latency_s", "mean_ttft_s"
WORST_BEYOND_FCFS = 1.02


def bars(studies: Mapping[str, Study]) -> str:
    """Markdown: each demand, the figure, and whether it holds. Means over seeds are divided, seeds being paired."""

    def over(study: str, load: float, figure: str, policy: str, base: str) -> float:
        runs = studies[study]["runs"]
        return mean_of(runs, policy, load, figure) / mean_of(runs, base, load, figure)

    rows = [
        ("load 1.1: FCFS's mean / ours", 1 / over("main", 1.1, MEAN, "default", "fcfs"), 1.7, "at least"),
        ("load 1.1: our mean / the oracle's", over("main", 1.1, MEAN, "default", "oracle"), 1.3, "at most"),
        ("load 1.1: our p99 / the oracle's", over("main", 1.1, P99, "default", "oracle"), 0.65, "at most"),
        ("load 1.1: our mean / linear aging's at our p99", _over_linear(studies), 1.0, "at most"),
        ("load 0.95: our p99 / FCFS's", over("main", 0.95, P99, "default", "fcfs"), 1.15, "at most"),
        ("load 0.95: FCFS's mean TTFT / ours", 1 / over("main", 0.95, TTFT, "default", "fcfs"), 3.0, "at least"),
        ("our mean / FCFS's, the worst of all", *_worst(studies)),
        *(
            (f"short memory, {steps}, load {load:g}: the paper's mean / ours", 1 / found, 1.15, "at least")
            for study, steps in (("kv-h100", "steps of the H100"), ("kv", "steps of 5 ms"))
            for load, found in _over_paper(studies[study])
        ),
    ]
    lines = ["| | figure | asked | |", "|---|---|---|---|"]
    for name, found, bar, way in rows:
        holds = found <= bar if way == "at most" else found >= bar
        lines.append(f"| {name} | {found:.3f} | {way} {bar:g} | {'holds' if holds else '**fails**'} |")
    return "\n".join(lines)


def by_load(study: Study) -> str:
    """Markdown: FCFS's mean latency, p99 and mean TTFT divided by each policy's, and seconds of FCFS."""
    runs = study["runs"]
    loads = sorted({run["load"] for run in runs})
    lines = ["| policy | " + " | ".join(f"load {load:g}" for load in loads) + " |", "|---|" + "---|" * len(loads)]
    for policy in dict.fromkeys(run["policy"] for run in runs):
        cells = []
        for load in loads:
            own = [mean_of(runs, policy, load, figure) for figure in (MEAN, P99, TTFT)]
            base = [mean_of(runs, "fcfs", load, figure) for figure in (MEAN, P99, TTFT)]
            cells.append(_cell(policy, own, base))
        lines.append(f"| `{policy}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def by_study(studies: Mapping[str, Study], names: Mapping[str, str], load: float) -> str:
    """Markdown: the same three figures of one load, a column for each of the studies `names` (title by name)."""
    lines = ["| policy | " + " | ".join(names.values()) + " |", "|---|" + "---|" * len(names)]
    for policy in dict.fromkeys(run["policy"] for name in names for run in studies[name]["runs"]):
        cells = []
        for name in names:
            runs = studies[name]["runs"]
            own = [mean_of(runs, policy, load, figure) for figure in (MEAN, P99, TTFT)]
            base = [mean_of(runs, "fcfs", load, figure) for figure in (MEAN, P99, TTFT)]
            cells.append(_cell(policy, own, base))
        lines.append(f"| `{policy}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(policy: str, own: Sequence[float], base: Sequence[float]) -> str:
    """What a policy's figures are of first come, first served's; of the latter, its own seconds."""
    if policy == "fcfs":
        return f"{own[0]:.2f} s, {own[1]:.1f} s, {own[2]:.2f} s"
    return ", ".join(f"{before / after:.2f}" for before, after in zip(base, own, strict=True))


def _over_linear(studies: Mapping[str, Study]) -> float:
    """Mean latency over that of linear aging with the same p99, between two of its points."""
    runs = studies["frontier"]["runs"]
    linear = [policy for policy in dict.fromkeys(run["policy"] for run in runs) if "linear" in policy]
    tails = np.array([mean_of(runs, policy, 1.1, P99) for policy in linear])
    means = np.array([mean_of(runs, policy, 1.1, MEAN) for policy in linear])
    order = np.argsort(tails)
    same = np.interp(mean_of(runs, "default", 1.1, P99), tails[order], means[order])
    return float(mean_of(runs, "default", 1.1, MEAN) / same)


def _worst(studies: Mapping[str, Study]) -> tuple[float, float, str]:
    found = [
        mean_of(study["runs"], "default", load, MEAN) / mean_of(study["runs"], "fcfs", load, MEAN)
        for study in studies.values()
        for load in sorted({run["load"] for run in study["runs"]})
    ]
    return max(found), WORST_BEYOND_FCFS, "at most"


def _over_paper(study: Study) -> Sequence[tuple[float, float]]:
    runs = study["runs"]
    loads = sorted({run["load"] for run in runs})
    return [(load, mean_of(runs, "default", load, MEAN) / mean_of(runs, "paper", load, MEAN)) for load in loads]
