"""Drawings of an experiment, as SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np

from scheduler_service.experiments.analysis.effects import Effect, level, tuning_of
from scheduler_service.experiments.analysis.pairs import Block, Pairs
from scheduler_service.experiments.analysis.sequence import centre, interval
from scheduler_service.experiments.analysis.verdict import Verdict
from scheduler_service.experiments.design import Design
from scheduler_service.experiments.figures import FIGURES

mpl.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.figure import Figure as Drawing  # noqa: E402

WIDE, HALF = (9.0, 2.6), (9.0, 3.2)
MOST_LOOKS = 200


def over_time(design: Design, verdict: Verdict) -> str:
    """The estimate and its interval after each pair of blocks."""
    drawing, axes = plt.subplots(figsize=WIDE, layout="constrained")
    looks = np.unique(np.linspace(1, max(len(verdict.pairs), 1), MOST_LOOKS).astype(int))
    estimates, lows, highs = _looks(design, verdict.pairs, looks)
    limit = 3 * max(np.abs(estimates[-1]), 0.1) if len(verdict.pairs) else 1.0
    axes.fill_between(looks, np.clip(lows, -9, 9), np.clip(highs, -9, 9), alpha=0.2, label="interval")
    axes.plot(looks, estimates, label="estimate")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_ylim(-limit, limit)
    axes.set_xlabel("pairs of blocks")
    axes.set_ylabel("difference")
    figure = FIGURES[design.figure]
    axes.set_title(f"{figure.title}: {verdict.arm} against {design.control.name}")
    if figure.relative:
        axes.yaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0))
    axes.legend(loc="upper right")
    return _svg(drawing)


def by_block(design: Design, blocks: Sequence[Block]) -> str:
    """The deciding figure of every block, by arm."""
    drawing, axes = plt.subplots(figsize=WIDE, layout="constrained")
    figure = FIGURES[design.figure]
    for arm in design.live_arms:
        found = [
            (block.number, block.figures[figure.name])
            for block in blocks
            if block.arm == arm.name and not block.void and figure.name in block.figures
        ]
        if found:
            axes.plot(*zip(*found, strict=True), "o", markersize=4, label=arm.name)
    axes.set_xlabel("block")
    axes.set_ylabel(f"{figure.title}, {figure.unit}")
    axes.set_title("every block of every engine")
    if axes.has_data():
        axes.legend(loc="upper right")
    return _svg(drawing)


def forest(verdict: Verdict) -> str:
    """All figures that are compared by ratio, with their intervals."""
    shown = [each for each in (verdict.deciding, *verdict.others) if FIGURES[each.figure].relative and each.pairs][::-1]
    drawing, axes = plt.subplots(figsize=HALF, layout="constrained")
    for row, effect in enumerate(shown):
        colour = {"better": "tab:green", "worse": "tab:red"}.get(effect.says, "tab:gray")
        low, high = _within(effect)
        axes.plot([low, high], [row, row], color=colour, linewidth=2)
        axes.plot(effect.estimate, row, "o", color=colour)
    axes.set_yticks(range(len(shown)), [FIGURES[each.figure].title for each in shown])
    axes.axvline(0, color="black", linewidth=0.8)
    axes.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0))
    axes.set_title(f"{verdict.arm}: every figure, with its interval")
    return _svg(drawing)


def _looks(design: Design, pairs: Pairs, looks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    figure, alpha = FIGURES[design.figure], level(design)
    tuning, _ = tuning_of(design, pairs, figure)
    rows = []
    for look in looks.tolist():
        seen = pairs.differences[:look]
        bounds = interval(seen, alpha, tuning)
        rows.append((figure.effect(centre(seen, tuning)), figure.effect(bounds.low), figure.effect(bounds.high)))
    estimates, lows, highs = np.array(rows).T
    return estimates, lows, highs


def _within(effect: Effect) -> tuple[float, float]:
    return max(effect.low, -1.0), min(effect.high, 2.0)


def _svg(drawing: Drawing) -> str:
    text = io.StringIO()
    drawing.savefig(text, format="svg")
    plt.close(drawing)
    found = text.getvalue()
    return found[found.index("<svg") :]
