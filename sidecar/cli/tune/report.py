"""What came out: rows for JSON, the table and the picture alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from sidecar.cli.tune.knobs import Variant
from sidecar.cli.tune.ratios import Ratio, Runs, over_seeds
from sidecar.cli.tune.settings_file import settings_of
from sidecar.cli.tune.study import MEAN, P99, TTFT, Study

TOGETHER = "together"


@dataclass(frozen=True, slots=True)
class Row:
    """One value of one knob. Figures over FCFS have intervals over the seeds, those over the default over all runs;
    counts are means over the runs."""

    knob: str
    value: str
    settings: dict[str, float]
    every: int
    is_default: bool
    chosen: bool
    mean_over_fcfs: Ratio
    p99_over_fcfs: Ratio
    ttft_over_fcfs: Ratio
    mean_over_default: Ratio
    p99_over_default: Ratio
    preemptions: float
    recomputed_tokens: float


def rows_of(study: Study) -> list[Row]:
    """Every point of every knob, and last the values that were tried together."""
    rows = [
        _row(study, knob.name, point.shown, point.variant, _is_chosen(study, point.variant, knob.name))
        for knob in study.knobs
        for point in knob.points
    ]
    if study.together is not None:
        rows.append(_row(study, TOGETHER, study.together.shown, study.together, study.chosen == study.together))
    return rows


def table_of(rows: Sequence[Row]) -> Table:
    """For a terminal."""
    title = (
        "mean latency, p99 latency and mean TTFT over those of first come, first served, with 95 % over seeds; "
        "preempted requests and recomputed tokens of a run; aging is T in mean services"
    )
    table = Table(title=title, title_justify="left")
    for name in ("knob", "value", "mean", "p99", "TTFT", "preempted", "recomputed", ""):
        whole = name in ("preempted", "recomputed")
        table.add_column(name, justify="left" if name in ("knob", "") else "right", overflow="fold", no_wrap=whole)
    for row, after in zip(rows, [*rows[1:], None], strict=True):
        shown = (_shown(ratio) for ratio in (row.mean_over_fcfs, row.p99_over_fcfs, row.ttft_over_fcfs))
        marks = ["default"] * row.is_default + ["chosen"] * row.chosen
        table.add_row(
            row.knob, _value(row), *shown, f"{row.preemptions:.4g}", f"{row.recomputed_tokens:.6g}", ", ".join(marks),
            end_section=after is None or after.knob != row.knob,
        )  # fmt: skip
    return table


def as_dict(study: Study, rows: Sequence[Row]) -> dict[str, Any]:
    """What ``tune.json`` holds of the study."""
    trial = study.trial(study.chosen)
    return {
        "rows": [asdict(row) for row in rows],
        "chosen": {
            "settings": settings_of(dict(study.chosen.settings)), "every": study.every, "policy": study.chosen.arm,
            "mean_over_default": asdict(trial.mean), "p99_over_default": asdict(trial.p99),
            "mean_over_fcfs": asdict(over_seeds(study.runs[study.chosen], study.fcfs, MEAN)),
        },
        "verdict": study.verdict,
    }  # fmt: skip


def told(ratio: Ratio) -> str:
    """As 0.931 (95 %: 0.902 to 0.961)."""
    bounds = f" (95 %: {ratio.low:.3f} to {ratio.high:.3f})" if ratio.low is not None else ""
    return f"{ratio.ratio:.3f}{bounds}"


def _is_chosen(study: Study, variant: Variant, knob: str) -> bool:
    if knob == "K":
        return variant.every == study.every
    point = study.best.get(knob)
    taken = point is not None and set(point.variant.settings) <= set(study.chosen.settings)
    return variant == (point.variant if point is not None and taken else Variant())


def _row(study: Study, knob: str, value: str, variant: Variant, chosen: bool) -> Row:
    runs, trial = study.runs[variant], study.trial(variant)
    return Row(
        knob,
        value,
        dict(variant.settings),
        variant.every,
        variant == Variant(),
        chosen,
        mean_over_fcfs=over_seeds(runs, study.fcfs, MEAN),
        p99_over_fcfs=over_seeds(runs, study.fcfs, P99),
        ttft_over_fcfs=over_seeds(runs, study.fcfs, TTFT),
        mean_over_default=trial.mean,
        p99_over_default=trial.p99,
        preemptions=_mean(runs, "preemptions"),
        recomputed_tokens=_mean(runs, "recomputed_tokens"),
    )


def _mean(runs: Runs, figure: str) -> float:
    return sum(float(run[figure]) for run in runs.values()) / len(runs)


def _value(row: Row) -> str:
    seconds = row.settings.get("aging_s")
    return row.value if seconds is None or row.knob == TOGETHER else f"{row.value} = {seconds:g} s"


def _shown(ratio: Ratio) -> str:
    bounds = f" {ratio.low:.2f}-{ratio.high:.2f}" if ratio.low is not None else ""
    return f"{ratio.ratio:.3f}{bounds}"
