"""The curve of mean response time over c, with what the simulation said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scheduler_service.theory.comparison import Comparison

SIDE_INCHES = 3.4


def draw(comparisons: Sequence[Comparison], path: Path) -> None:
    """One panel for each pair of distributions, a line for each load; response times are shares of FCFS's.

    Raises:
        ValueError: matplotlib knows no format of that ending.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows, columns = (list(dict.fromkeys(key(each) for each in comparisons)) for key in (_sizes, _predictions))
    figure, axes = plt.subplots(
        len(rows), len(columns), squeeze=False, sharex=True, sharey="row", layout="constrained",
        figsize=(SIDE_INCHES * len(columns) + 0.8, SIDE_INCHES * len(rows)),
    )  # fmt: skip
    for each in comparisons:
        axis = axes[rows.index(_sizes(each)), columns.index(_predictions(each))]
        c = [row.c for row in each.rows]
        (line,) = axis.plot(c, [row.theory / each.fcfs for row in each.rows], label=f"load {each.setting.load:g}")
        points = [(row.c, row.simulation.mean, row.simulation.half_width) for row in each.rows if row.simulation]
        if points:
            at, mean, width = np.array(points).T
            axis.errorbar(at, mean / each.fcfs, width / each.fcfs, fmt="o", markersize=3, color=line.get_color())
        axis.set_title(f"sizes {_sizes(each)}\npredictions {_predictions(each)}", fontsize="small")
    for axis in axes[-1]:
        axis.set_xlabel("c")
    for axis in axes[:, 0]:
        axis.set_ylabel("mean response time / FCFS")
    loads, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(loads, names, loc="outside lower center", ncols=len(names), title="lines: theory; points: simulation")
    with matplotlib.rc_context({"svg.hashsalt": "trail", "svg.fonttype": "none"}):
        figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def _sizes(comparison: Comparison) -> str:
    return comparison.setting.sizes


def _predictions(comparison: Comparison) -> str:
    return comparison.setting.predictions
