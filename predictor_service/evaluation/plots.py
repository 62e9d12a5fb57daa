"""The figures of a report."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from predictor_service.evaluation.breakdown import Group
from predictor_service.evaluation.calibration import DECILES
from predictor_service.evaluation.metrics import Estimate
from predictor_service.evaluation.predicted import Predicted
from predictor_service.evaluation.resampling import Sample, interval
from predictor_service.training.labels import Floats, Ints

HEATMAP_CELLS = 25


def heatmaps(predicted: Mapping[str, Predicted], longest: int) -> Figure:
    """Predicted median against true remaining length, a panel each (the paper's Figures 3 and 4)."""
    figure, axes = _figure(len(predicted), 4.6)
    edges = np.concatenate([[0], np.geomspace(1, longest + 1, HEATMAP_CELLS)])
    for axis, (name, one) in zip(axes, predicted.items(), strict=True):
        counts = np.histogram2d(one.median, one.truth, bins=(edges, edges))[0]
        norm = LogNorm(1, max(counts.max(), 2))
        mesh = axis.pcolormesh(edges, edges, np.where(counts > 0, counts, np.nan), norm=norm)
        axis.plot([1, longest], [1, longest], "k--", linewidth=0.8)
        axis.set(title=name, xlabel="true remaining length, tokens", xscale="log", yscale="log")
        axis.set(xlim=(1, longest), ylim=(1, longest))
        figure.colorbar(mesh, ax=axis, label="positions")
    axes[0].set_ylabel("predicted median, tokens")
    return figure


def lengths(length: Ints, finished: NDArray[np.bool_], edges: Floats) -> Figure:
    """How long the responses are, and where the bins lie."""
    figure, (axis,) = _figure(1)
    cells = np.linspace(0, length.max() + 1, 60)
    both = [length[finished], length[~finished]]
    axis.hist(both, cells.tolist(), stacked=True, label=["finished", "cut at the cap"])
    for edge in edges[edges <= length.max()]:
        axis.axvline(edge, color="0.75", linewidth=0.6, zorder=0)
    axis.set(xlabel="response length, tokens (grey: bin edges)", ylabel="requests")
    axis.legend()
    return figure


def mae_by_age(groups: Mapping[str, Sequence[Group]]) -> Figure:
    """Mean absolute error of each method at each age."""
    figure, (axis,) = _figure(1)
    for number, (name, of_method) in enumerate(groups.items()):
        _errorbars(axis, of_method, "mae_tokens", name, offset=0.06 * (number - len(groups) / 2))
    axis.set(ylabel="MAE of the remaining length, tokens")
    axis.legend()
    return figure


def coverage_by_age(groups: Sequence[Group]) -> Figure:
    """How often the truth lies in the interval that should hold 80 %."""
    figure, (axis,) = _figure(1)
    _errorbars(axis, groups, "coverage_80", "p10 to p90 as served")
    axis.axhline(0.8, color="k", linestyle="--", linewidth=0.8)
    axis.set(ylabel="share of truths inside", ylim=(0, 1))
    axis.legend()
    return figure


def reliability(sample: Sample, level_of: Floats) -> Figure:
    """Share of truths below each decile of the posterior; calibrated: on the diagonal."""
    figure, (axis,) = _figure(1, 4.6)
    share = sample.mean((level_of[:, None] <= DECILES).astype(np.float64))
    axis.errorbar(DECILES, share[0], yerr=_whiskers(share[0], *interval(share)), fmt="o-", capsize=3)
    axis.plot([0, 1], [0, 1], "k--", linewidth=0.8)
    axis.set(xlabel="level of the posterior's quantile", ylabel="share of truths below it", xlim=(0, 1), ylim=(0, 1))
    return figure


def layer_profile(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Error and ranking of a classifier on each layer alone (the paper's Figure 2).

    ``rows`` have `study` (one curve each), `name` (the layer), `mae_median` and `kendall_tau`, and standard errors
    under the same names with `_se`, where they are known.
    """
    figure, axes = _figure(2)
    for study in dict.fromkeys(row["study"] for row in rows):
        mine = sorted((row for row in rows if row["study"] == study), key=lambda row: int(row["name"]))
        layers = [int(row["name"]) for row in mine]
        for axis, key in zip(axes, ("mae_median", "kendall_tau"), strict=True):
            errors = [1.96 * row.get(f"{key}_se", 0.0) for row in mine]
            axis.errorbar(layers, [row[key] for row in mine], yerr=errors, marker="o", capsize=2, label=study)
    axes[0].set(xlabel="layer", ylabel="MAE of the median, tokens")
    axes[1].set(xlabel="layer", ylabel="Kendall's tau-b")
    axes[0].legend()
    return figure


def learning_curve(rows: Sequence[Mapping[str, Any]], floor: Mapping[str, Any] | None) -> Figure:
    """Error and ranking against the number of training responses, and what no predictor can beat.

    ``rows`` are as for `layer_profile`, with `responses` for the layer; ``floor`` has `mae_tokens` and `kendall_tau`.
    """
    figure, axes = _figure(2)
    counts = [row["responses"] for row in rows]
    for axis, key, limit in zip(axes, ("mae_median", "kendall_tau"), ("mae_tokens", "kendall_tau"), strict=True):
        errors = [1.96 * row.get(f"{key}_se", 0.0) for row in rows]
        axis.errorbar(counts, [row[key] for row in rows], yerr=errors, marker="o", capsize=2, label="validation")
        if floor is not None:
            axis.axhline(floor[limit], color="k", linestyle="--", linewidth=0.8, label="noise floor")
        axis.set(xlabel="training responses", xscale="log")
        axis.legend()
    axes[0].set_ylabel("MAE of the median, tokens")
    axes[1].set_ylabel("Kendall's tau-b")
    return figure


def _figure(panels: int, height: float = 4.0) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(5.4 * panels + (1.6 if panels == 1 else 0), height), layout="constrained")
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def _errorbars(axis: Axes, groups: Sequence[Group], key: str, label: str, offset: float = 0.0) -> None:
    estimates: list[Estimate] = [group.figures[key] for group in groups]
    value, low, high = (np.array([one[name] for one in estimates]) for name in ("value", "low", "high"))
    at = np.arange(len(groups))
    axis.errorbar(at + offset, value, yerr=_whiskers(value, low, high), marker="o", capsize=2, label=label)
    axis.set_xticks(at, [group.name for group in groups], rotation=30)
    axis.set_xlabel("age, tokens generated")


def _whiskers(value: Floats, low: Floats, high: Floats) -> Floats:
    """How far an interval reaches down and up [2, n]; a bootstrap interval may miss its value."""
    return np.maximum([value - low, high - value], 0)
