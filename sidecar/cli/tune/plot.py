"""How sensitive the load is to each knob, as in Figure 5 and Appendix D of the TRAIL paper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sidecar.cli.tune.knobs import Knob
from sidecar.cli.tune.ratios import Ratio
from sidecar.cli.tune.report import Row

LINES = {"mean_over_fcfs": "mean latency", "p99_over_fcfs": "p99 latency", "ttft_over_fcfs": "mean TTFT"}
APART = 0.08
"""Between the lines' points at one value, so that their bars do not hide each other."""


def draw(knobs: Sequence[Knob], rows: Sequence[Row], path: Path) -> None:
    """One panel a knob, its values evenly spaced: figures over FCFS's with intervals over the seeds. The default is
    the dotted line, what was chosen the shaded band."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.1 * len(knobs), 3.6), layout="constrained")
    panels = figure.subplots(1, len(knobs), sharey=True)
    for axes, knob in zip(panels, knobs, strict=True):
        of_knob = [row for row in rows if row.knob == knob.name]
        axes.axhline(1, color="0.6", linewidth=0.8)
        for at, row in enumerate(of_knob):
            if row.chosen:
                axes.axvspan(at - 0.35, at + 0.35, color="0.9", zorder=0, label="chosen")
            if row.is_default:
                axes.axvline(at, color="0.3", linestyle=":", linewidth=1, label="default")
        for number, (name, label) in enumerate(LINES.items()):
            ratios: list[Ratio] = [getattr(row, name) for row in of_knob]
            places = [at + APART * (number - 1) for at in range(len(ratios))]
            below, above = zip(*(_bar(ratio) for ratio in ratios), strict=True)
            axes.errorbar(
                places,
                [each.ratio for each in ratios],
                [below, above],
                fmt="o-",
                markersize=3.5,
                capsize=2,
                label=label,
            )
        axes.set(xlabel=knob.label, xticks=range(len(of_knob)), xticklabels=[row.value for row in of_knob])
        axes.grid(axis="y", alpha=0.3)
    panels[0].set_ylabel("over first come, first served")
    panels[0].set_ylim(bottom=0)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    with matplotlib.rc_context({"svg.hashsalt": "trail", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _bar(ratio: Ratio) -> tuple[float, float]:
    if ratio.low is None or ratio.high is None:
        return 0.0, 0.0
    return ratio.ratio - ratio.low, ratio.high - ratio.ratio
