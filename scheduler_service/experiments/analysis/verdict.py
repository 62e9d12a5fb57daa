"""What an experiment has found by now, with all that speaks for and against believing it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from scheduler_service.experiments.analysis.checks import (
    Check,
    carryover,
    cut_short,
    far_out,
    lost_blocks,
    lost_requests,
    randomisation_p,
)
from scheduler_service.experiments.analysis.effects import Effect, effect_of, pairs_of, tuning_of
from scheduler_service.experiments.analysis.pairs import Block, Pairs
from scheduler_service.experiments.design import Design
from scheduler_service.experiments.figures import FIGURES, Figure

_REQUESTS = Figure("requests", "requests", "", lambda tally, _: tally.requests)
_CUT_SHORT = Figure("cut_short", "requests cut short", "", lambda tally, _: None, relative=False)


@dataclass(frozen=True, slots=True)
class Verdict:
    """On one treatment. `p` is of the deciding figure, exact, and for one look at the end."""

    arm: str
    deciding: Effect
    p: float | None
    pairs: Pairs
    others: tuple[Effect, ...]
    checks: tuple[Check, ...]

    @property
    def believable(self) -> bool:
        return all(check.passed for check in self.checks)


def verdicts(design: Design, blocks: Sequence[Block]) -> list[Verdict]:
    """Of each treatment that engines serve, by closed blocks."""
    return [_verdict(design, blocks, arm.name) for arm in design.live_arms[1:]]


def _verdict(design: Design, blocks: Sequence[Block], treatment: str) -> Verdict:
    names = [arm.name for arm in design.live_arms]
    pairs = pairs_of(design, blocks, treatment)
    others = (figure for figure in FIGURES.values() if figure.name != design.figure)
    arrived = [dataclasses.replace(block, figures=_of_requests(block)) for block in blocks]
    tuning, _ = tuning_of(design, pairs, FIGURES[design.figure])
    return Verdict(
        treatment,
        effect_of(design, pairs, treatment),
        randomisation_p(pairs),
        pairs,
        tuple(effect_of(design, pairs_of(design, blocks, treatment, each), treatment, each) for each in others),
        (
            lost_blocks(blocks, len(names), treatment, names[0]),
            lost_requests(pairs_of(design, arrived, treatment, _REQUESTS)),
            cut_short(pairs_of(design, arrived, treatment, _CUT_SHORT)),
            far_out(pairs, tuning),
            carryover(blocks, names, FIGURES[design.figure]),
        ),
    )


def _of_requests(block: Block) -> dict[str, float]:
    cut = block.figures.get("error_rate", 0.0) + block.figures.get("abort_rate", 0.0)
    return {_REQUESTS.name: float(block.requests), _CUT_SHORT.name: cut}
