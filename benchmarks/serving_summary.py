"""Figures of the cells of `benchmarks.serving`, by load and arm, and beside stock's of the same seed."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving_cells import STOCK
from engine_adapter.agent import plan_book
from sidecar.cli.simulate.metrics import BUCKETS, means_by_bucket

PERCENTILES = (50, 95, 99)
COMPARED = ("mean_latency_s", "p99_latency_s", "mean_ttft_s", "p99_ttft_s", "mean_tpot_s", "window_tokens_per_s")
SAME_STEP_S = 0.0015
"""Between the first tokens that one step gave out: less than the shortest step."""
_OF_GROUP = (
    "llm",
    "vllm",
    "gpu",
    "regime",
    "slots",
    "kv_blocks",
    "arrivals",
    "seconds",
    "max_tokens",
    "lengths",
    "sigma",
)

_COLUMNS = (
    "load", "arm", "mean latency", "p99 latency", "mean TTFT", "p99 TTFT", "mean TPOT, ms", "tokens/s", "preemptions",
)  # fmt: skip

Figures = dict[str, Any]


def summarise(folder: Path) -> dict[str, Any]:
    """All cells in `folder`. Raises ValueError where there are none."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*-load*-seed*.json")):
        found = json.loads(path.read_text())
        groups[json.dumps(found["setting"])].append(found)
    if not found:
        raise ValueError(f"{folder}: no cells in it")
    return {
        "what": "Latencies of the same requests through stock vLLM and the attached engine's arms; seconds",
        "machine": found["machine"],
        "versions": found["versions"],
        "commands": sorted({cell["command"] for cells in groups.values() for cell in cells}),
        "groups": [_group(cells) for cells in groups.values()],
    }


def _group(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    loads: dict[str, dict[str, dict[str, Figures]]] = defaultdict(lambda: defaultdict(dict))
    for cell in sorted(cells, key=lambda each: (each["load"], each["arm"] != STOCK, each["arm"], each["seed"])):
        loads[f"{cell['load']:g}"][cell["arm"]][str(cell["seed"])] = figures(cell)
    setting = cells[0]["setting"]
    return {
        **{name: setting[name] for name in _OF_GROUP},
        "measured": cells[0]["measured"],
        "loads": {
            load: {arm: _arm(seeds, arms.get(STOCK, {}) if arm != STOCK else {}) for arm, seeds in arms.items()}
            for load, arms in loads.items()
        },
    }


def _arm(seeds: Mapping[str, Figures], stock: Mapping[str, Figures]) -> dict[str, Any]:
    paired = [seed for seed in seeds if seed in stock]
    ratios = {name: [seeds[seed][name] / stock[seed][name] for seed in paired] for name in COMPARED}
    return {
        "seeds": dict(seeds),
        "mean": {name: float(np.mean([each[name] for each in seeds.values()])) for name in COMPARED},
        "to_stock": {
            name: {"mean": float(np.mean(of)), "least": min(of), "most": max(of), "by_seed": of}
            for name, of in ratios.items()
            if of
        },
    }


def figures(cell: Mapping[str, Any]) -> Figures:
    """Of one cell.

    Times count from when a request was due. TPOT is the time from the first to the last token, by tokens after the
    first. Slowdown is latency divided by what a request of that length takes alone.
    """
    requests, measured = cell["requests"], cell["measured"]
    due_s, output = np.array(requests["arrival_s"]), np.array(requests["output_tokens"])
    first_s, end_s = np.array(requests["first_token_s"]), np.array(requests["end_s"])
    latency_s, several = end_s - due_s, output > 1
    tpot_s = (end_s - first_s)[several] / (output[several] - 1)
    slowdown = latency_s / (measured["alone_ttft_s"] + (output - 1) * measured["alone_tpot_s"])
    agent = cell["agent"]
    return {
        **_spread("latency_s", latency_s),
        **_spread("ttft_s", first_s - due_s),
        **_spread("tpot_s", tpot_s),
        **_spread("slowdown", slowdown),
        "slowdown_by_output_tokens": by_bucket(output, slowdown),
        "requests": len(output),
        "output_tokens": int(output.sum()),
        "cut_share": float(np.mean(requests["cut"])),
        "window_tokens_per_s": cell["window_tokens"] / cell["setting"]["seconds"],
        "median_step_ms": cell["median_step_ms"],
        "first_tokens_together": together(first_s),
        "preemptions": cell["preemptions"],
        "recomputed_tokens": cell["recomputed_tokens"],
        "wall_s": cell["wall_s"],
        "declared_as_they_came": cell["declared_as_they_came"],
        "prediction_error_tokens": agent.get("prediction_error_tokens"),
        "prediction_age_tokens_p50": median_of(agent.get("prediction_age_tokens_histogram", ())),
        "row_records_dropped": agent["counters"]["row_records_dropped"] if agent else None,
        "fail_open_share": agent["counters"]["fail_open_steps"] / max(agent["counters"]["steps"], 1) if agent else None,
    }


def together(first_s: NDArray[np.float64]) -> float:
    """How many requests had their first token in one step, on average: those that came within `SAME_STEP_S`."""
    return float(first_s.size / (1 + np.count_nonzero(np.diff(np.sort(first_s)) > SAME_STEP_S)))


def _spread(name: str, values: NDArray[np.float64]) -> dict[str, float]:
    if not values.size:
        values = np.zeros(1)
    found = {f"mean_{name}": float(values.mean()), f"max_{name}": float(values.max())}
    return found | {f"p{level}_{name}": float(np.percentile(values, level)) for level in PERCENTILES}


def by_bucket(output: NDArray[np.int64], values: NDArray[np.float64]) -> dict[str, float | None]:
    """The mean in each length bucket; None for an empty one."""
    names = [*(f"to {edge}" for edge in BUCKETS), f"over {BUCKETS[-1]}"]
    return dict(zip(names, means_by_bucket(output, values), strict=True))


def median_of(histogram: Iterable[int]) -> float | None:
    """The median of values 0, 1, 2, ... that occur so often."""
    return plan_book.median_of(np.array(list(histogram), np.int64))


def table(summary: Mapping[str, Any]) -> str:
    """Markdown: seconds and, in brackets, the ratio to stock's with its range over seeds."""
    parts = []
    for group in summary["groups"]:
        blocks = f", {group['kv_blocks']} KV blocks" if group["kv_blocks"] else ""
        capacity = group["measured"]["capacity_rps"]
        parts.append(
            f"{group['gpu']}, vLLM {group['vllm']}, {group['llm']}: {group['slots']} slots{blocks}, "
            f"{group['arrivals']} arrivals for {group['seconds']:g} s; load 1 is {capacity:.1f} requests/s\n"
        )
        parts += [
            f"| {' | '.join(_COLUMNS)} |",
            "|---" * len(_COLUMNS) + "|",
            *(_row(load, arm, found) for load, arms in group["loads"].items() for arm, found in arms.items()),
            "",
        ]
    return "\n".join(parts)


def _row(load: str, arm: str, found: Mapping[str, Any]) -> str:
    cells = [_with_ratio(found, name) for name in COMPARED[:4]]
    preemptions = np.mean([each["preemptions"] for each in found["seeds"].values()])
    mean = found["mean"]
    figures = f"{1000 * mean['mean_tpot_s']:.2f} | {mean['window_tokens_per_s']:.0f} | {preemptions:.0f}"
    return f"| {load} | {arm} | {' | '.join(cells)} | {figures} |"


def _with_ratio(found: Mapping[str, Any], name: str) -> str:
    text, ratio = f"{found['mean'][name]:.3g}", found["to_stock"].get(name)
    return text if ratio is None else f"{text} ({ratio['mean']:.2f}: {ratio['least']:.2f} to {ratio['most']:.2f})"
