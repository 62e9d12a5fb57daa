"""By how much a treatment differs from control, as far as its blocks tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scheduler_service.experiments.analysis.pairs import Block, Floats, Pairs, paired
from scheduler_service.experiments.analysis.sequence import Tuning, anytime_p, centre, interval, tuned
from scheduler_service.experiments.design import Design
from scheduler_service.experiments.figures import FIGURES, Figure

FIRST = 3


@dataclass(frozen=True, slots=True)
class Effect:
    """One figure of a treatment against control. `estimate`, `low` and `high` are shares of control's (0.1: 10 % more)
    for a relative figure, else in its unit: the centre of the pairs' differences, and an interval that holds however
    often one looks. `treated` and `control` are means over blocks; `missing` pairs have a block that could not tell
    the figure."""

    figure: str
    arm: str
    pairs: int
    missing: int
    treated: float
    control: float
    estimate: float
    low: float
    high: float
    anytime_p: float
    shown: bool
    """Whether there is a difference, at the design's alpha; once shown, it stays."""

    @property
    def says(self) -> str:
        """better, worse or undecided."""
        if not self.shown:
            return "undecided"
        return "worse" if FIGURES[self.figure].worse(self.estimate) else "better"


def level(design: Design) -> float:
    """Of each treatment: alpha is shared between them."""
    return design.alpha / max(len(design.live_arms) - 1, 1)


def deciding_effects(design: Design, blocks: Sequence[Block]) -> list[Effect]:
    """The deciding figure of each treatment."""
    return [effect_of(design, pairs_of(design, blocks, arm.name), arm.name) for arm in design.live_arms[1:]]


def pairs_of(design: Design, blocks: Sequence[Block], treatment: str, figure: Figure | None = None) -> Pairs:
    """Of the deciding figure, or of another."""
    chosen = FIGURES[design.figure] if figure is None else figure
    return paired(blocks, len(design.live_arms), treatment, design.control.name, chosen)


def effect_of(design: Design, pairs: Pairs, treatment: str, figure: Figure | None = None) -> Effect:
    """Of the deciding figure, or of another."""
    chosen = FIGURES[design.figure] if figure is None else figure
    alpha, (tuning, differences) = level(design), tuning_of(design, pairs, chosen)
    bounds, p = interval(differences, alpha, tuning), anytime_p(differences, tuning)
    some = len(pairs) > 0
    return Effect(
        chosen.name,
        treatment,
        len(pairs),
        pairs.missing,
        float(pairs.treated.mean()) if some else math.nan,
        float(pairs.control.mean()) if some else math.nan,
        chosen.effect(centre(pairs.differences, tuning)),
        chosen.effect(bounds.low),
        chosen.effect(bounds.high),
        p,
        p <= alpha,
    )


def tuning_of(design: Design, pairs: Pairs, figure: Figure) -> tuple[Tuning, Floats]:
    """And the differences that count: of the deciding figure one knew what to expect; of any other the first three
    pairs tell it, and do not count."""
    planned = design.groups * len(design.engines)
    if figure.name == design.figure:
        return tuned(planned, design.noise, level(design)), pairs.differences
    first, rest = pairs.differences[:FIRST], pairs.differences[FIRST:]
    size = float(np.median(np.abs(first))) if len(first) else 0.0
    return tuned(planned, size or (0.2 if figure.relative else 1e-3), level(design)), rest
