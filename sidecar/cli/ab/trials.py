"""Experiments of which the truth is known, many times over: how often is the verdict wrong, how often is it found?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scheduler_service.experiments.analysis.checks import randomisation_p
from scheduler_service.experiments.analysis.effects import effect_of, pairs_of
from scheduler_service.experiments.analysis.pairs import Block, Floats
from scheduler_service.experiments.analysis.power import cautious, deviation, pairs_needed, power
from scheduler_service.experiments.assignment import arm_of
from scheduler_service.experiments.design import Arm, Design
from scheduler_service.experiments.figures import FIGURES

CONTROL, TREATMENT = "control", "treatment"
Blocks = Sequence[Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What the power calculation says, from blocks on which nothing was tried; `noise` is cautious."""

    noise: float
    pairs_needed: int
    power: float


@dataclass(frozen=True, slots=True)
class Trials:
    """Shares of all runs. `found`: a difference was claimed at any look, which is false where there is none;
    `found_right`: on the right side. `covered`: the interval held the truth at the end, `always_covered` at every
    look. `found_at_one_look`: by the exact randomisation test, at the end alone."""

    runs: int
    found: float
    found_right: float
    found_at_one_look: float
    covered: float
    always_covered: float
    mean_estimate: float


def pilot_noise(engines: Sequence[Blocks], figure: str) -> Floats:
    """[M] differences of neighbouring blocks."""
    found = [
        FIGURES[figure].difference(one[figure], other[figure])
        for blocks in engines
        for one, other in zip(blocks[::2], blocks[1::2], strict=False)
        if figure in one and figure in other
    ]
    return np.array([each for each in found if each is not None])


def planned(noise: Floats, effect: float, alpha: float, wanted: float, engines: int) -> Plan | None:
    """None where no number of pairs would do. `effect` as a difference (`Figure.difference`)."""
    noise = cautious(noise)
    needed = pairs_needed(effect, noise, alpha, wanted)
    if needed is None:
        return None
    needed = -(-needed // engines) * engines
    return Plan(deviation(noise), needed, power(effect, noise, needed, alpha))


def design_for(plan: Plan, figure: str, alpha: float, engines: int, block_s: float, washout_s: float) -> Design:
    return Design(
        name="simulated",
        arms=(Arm(name=CONTROL), Arm(name=TREATMENT)),
        engines=tuple(f"engine-{number}" for number in range(engines)),
        block_s=block_s,
        washout_s=washout_s,
        groups=plan.pairs_needed // engines,
        figure=figure,
        alpha=alpha,
        noise=plan.noise,
    )


def tried(
    design: Design, pool: Sequence[Blocks], effect: float, runs: int, seed: int, done: Callable[[], None]
) -> Trials:
    """Each run takes stretches of the pool for its engines, draws its own lots, and makes the treated blocks' figure
    `effect` (a difference, `Figure.difference`) larger."""
    rng = np.random.default_rng([seed, 11])
    rows = []
    for run in range(runs):
        drawn = design.model_copy(update={"seed": int(rng.integers(2**62)) + run})
        pairs = pairs_of(drawn, _blocks(drawn, pool, effect, rng), TREATMENT)
        found = effect_of(drawn, pairs, TREATMENT)
        truth = FIGURES[design.figure].effect(effect)
        # Without the true effect, no difference is what the truth was with it.
        rest = dataclasses.replace(pairs, differences=pairs.differences - effect)
        p = randomisation_p(pairs)
        rows.append(
            (
                found.shown,
                found.shown and found.estimate * truth > 0,
                p is not None and p <= design.alpha,
                found.low <= truth <= found.high,
                not effect_of(drawn, rest, TREATMENT).shown,
                math.log1p(found.estimate),
            )
        )
        done()
    found_, right, once, covered, always, estimate = np.array(rows, np.float64).mean(axis=0).tolist()
    return Trials(runs, found_, right, once, covered, always, FIGURES[design.figure].effect(estimate))


def _blocks(design: Design, pool: Sequence[Blocks], effect: float, rng: np.random.Generator) -> list[Block]:
    figure, found = FIGURES[design.figure], []
    for engine_id in design.engines:
        source = pool[int(rng.integers(len(pool)))]
        first = int(rng.integers(len(source) - design.blocks + 1))
        for number in range(design.blocks):
            arm, values = arm_of(design, engine_id, number).name, dict(source[first + number])
            if arm == TREATMENT and figure.name in values:
                value = values[figure.name]
                values[figure.name] = value * float(np.exp(effect)) if figure.relative else value + effect
            found.append(Block(engine_id, number, arm, 1, values))
    return found
