"""The curve of mean response time over c, with what the simulation said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
        for row in each.rows:
            if row.simulation:
                mean, width = row.simulation.mean / each.fcfs, row.simulation.half_width / each.fcfs
                axis.errorbar(row.c, mean, width, fmt="o", markersize=3, color=line.get_color())
        axis.set_title(f"sizes {_sizes(each)}\npredictions {_predictions(each)}", fontsize="small")
    for axis in axes[-1]:
        axis.set_xlabel("c")
    for axis in axes[:, 0]:
        axis.set_ylabel("mean response time / FCFS")
    axes[0, 0].legend(fontsize="small", title="line: theory, points: simulation", title_fontsize="x-small")
    with matplotlib.rc_context({"svg.hashsalt": "trail"}):
        figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def _sizes(comparison: Comparison) -> str:
    return comparison.setting.sizes


def _predictions(comparison: Comparison) -> str:
    return comparison.setting.predictions
