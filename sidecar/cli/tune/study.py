"""The whole sweep, and what is chosen by it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sidecar.cli.simulate.cells import Cell, Experiment
from sidecar.cli.simulate.progress import progress_bar
from sidecar.cli.simulate.sweep import run_sweep
from sidecar.cli.tune.choice import Trial, best_of, largest_every, together_is_best
from sidecar.cli.tune.knobs import BASELINE, Knob, Point, Variant, every_knob
from sidecar.cli.tune.ratios import Pair, Runs, over_pairs

MEAN, P99, TTFT = "mean_latency_s", "p99_latency_s", "mean_ttft_s"


@dataclass(frozen=True, slots=True)
class Sweep:
    """What is run for each variant: ``seeds`` repeats of every load."""

    experiment: Experiment
    shares: Sequence[float]
    seeds: int
    jobs: int
    out: Path

    @property
    def pairs(self) -> int:
        return len(self.shares) * self.seeds

    def run(self, arms: Sequence[str], every: int, done: Callable[[], None]) -> dict[str, Runs]:
        """Figures by arm, then by load and seed."""
        cells = [Cell(arm, share, seed) for share in self.shares for arm in arms for seed in range(self.seeds)]
        found: dict[str, dict[Pair, Mapping[str, Any]]] = {arm: {} for arm in arms}
        for run in run_sweep(replace(self.experiment, every=every), cells, self.jobs, self.out, done):
            found[run["policy"]][run["load"], run["seed"]] = run
        return dict(found)


@dataclass(frozen=True, slots=True)
class Study:
    """Runs of first come, first served and of every variant, and the choice among them.

    ``best`` are the knobs whose best value beats the default, alone; ``together`` is those in one, where there are
    several; ``chosen`` is what to take, and ``every`` the K.
    """

    knobs: tuple[Knob, ...]
    fcfs: Runs
    runs: Mapping[Variant, Runs]
    best: Mapping[str, Point]
    together: Variant | None
    chosen: Variant
    every: int

    def trial(self, variant: Variant) -> Trial:
        return trial_of(self.runs, variant)

    @property
    def verdict(self) -> str:
        """What was chosen and why, in words."""
        if not self.best:
            return "the default stays: no value of c, margin or aging is better by more than chance and keeps the tail"
        if self.together is None:
            return f"{self.chosen.shown} is better than the default; no other knob is by more than chance"
        if self.chosen == self.together:
            return f"{self.chosen.shown} together are better than the default, and than each alone"
        return f"{self.chosen.shown} alone is better than the default; {self.together.shown} together are no better"


def run_study(sweep: Sweep, knobs: Sequence[Knob], p99_slack: float) -> Study:
    """Runs ``knobs`` and K around the default, then what is best of each together."""
    several = every_knob()
    variants = list(dict.fromkeys(point.variant for knob in (*knobs, several) for point in knob.points))
    with progress_bar((1 + len(variants)) * sweep.pairs) as done:
        fcfs = sweep.run([BASELINE], 1, done)[BASELINE]
        runs = _run(sweep, variants, done)
    best = {
        knob.name: point
        for knob in knobs
        if (point := best_of({each: trial_of(runs, each.variant) for each in knob.points}, p99_slack)) is not None
    }
    chosen, together = Variant(), None
    singles = {point.variant: trial_of(runs, point.variant) for point in best.values()}
    if singles:
        chosen = min(singles, key=lambda each: singles[each].mean.ratio)
    if len(singles) > 1:
        together = Variant(tuple(setting for variant in singles for setting in variant.settings))
        with progress_bar(sweep.pairs) as done:
            runs |= _run(sweep, [together], done)
        if together_is_best(trial_of(runs, together), singles, p99_slack):
            chosen = together
    every = largest_every({each.variant.every: trial_of(runs, each.variant).mean.ratio for each in several.points})
    return Study((*knobs, several), fcfs, runs, best, together, chosen, every)


def trial_of(runs: Mapping[Variant, Runs], variant: Variant) -> Trial:
    """A variant against the default."""
    figures = (over_pairs(runs[variant], runs[Variant()], figure) for figure in (MEAN, P99))
    return Trial(*figures)


def _run(sweep: Sweep, variants: Iterable[Variant], done: Callable[[], None]) -> dict[Variant, Runs]:
    by_every: dict[int, list[Variant]] = {}
    for variant in variants:
        by_every.setdefault(variant.every, []).append(variant)
    found: dict[Variant, Runs] = {}
    for every, some in by_every.items():
        by_arm = sweep.run([variant.arm for variant in some], every, done)
        found |= {variant: by_arm[variant.arm] for variant in some}
    return found
