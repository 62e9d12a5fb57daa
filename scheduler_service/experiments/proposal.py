"""From what was asked for to a whole design, with what was measured and what was assumed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from scheduler_service.experiments.analysis.effects import level
from scheduler_service.experiments.analysis.power import MOST_PAIRS, cautious, deviation, pairs_needed, power
from scheduler_service.experiments.design import Design, design_of
from scheduler_service.experiments.figures import FIGURES
from scheduler_service.experiments.pilot import LEAST_REQUESTS, Pilot
from sidecar.errors import InvalidField

DEFAULT_NOISE, DEFAULT_RATE_NOISE = 0.2, 0.02
DEFAULT_EFFECT, DEFAULT_POWER = 0.1, 0.8
LEAST_EFFECT = 1e-4


@dataclass(frozen=True, slots=True)
class Proposal:
    design: Design
    pairs_needed: int
    power: float
    notes: tuple[str, ...]


def propose(given: dict[str, Any], effect: float, wanted_power: float, pilot: Pilot) -> Proposal:
    """Fills in `washout_s`, `noise` and `groups` where they are 0. Raises InvalidField, for a washout that is shorter
    than requests live too."""
    notes: list[str] = []
    effect, wanted_power = effect or DEFAULT_EFFECT, wanted_power or DEFAULT_POWER
    if not (math.isfinite(effect) and abs(effect) >= LEAST_EFFECT):
        raise InvalidField("minimum_effect", f"{effect:g} is too small", limit=f"at least {LEAST_EFFECT:g}")
    if not 0 < wanted_power < 1:
        raise InvalidField("power", f"{wanted_power:g} is not between 0 and 1")
    given = given | {"washout_s": _washout_s(given["washout_s"], pilot, notes)}
    draft = design_of(given | {"groups": given["groups"] or 1, "noise": given["noise"] or DEFAULT_NOISE})
    difference = _difference(draft, effect)
    measured = pilot.noise(draft)
    noise = given["noise"] or (cautious(measured) if measured is not None else DEFAULT_NOISE)
    apart = deviation(noise)
    if not apart:
        # A rate that was 0 all the time, say: nothing tells yet by how much it varies.
        noise = apart = DEFAULT_NOISE if FIGURES[draft.figure].relative else DEFAULT_RATE_NOISE
    if given["noise"]:
        notes.append(f"two blocks differ by {apart:.3g} by themselves: as given")
    elif measured is not None:
        notes.append(f"two blocks differ by {apart:.3g} by themselves, at most: {measured.size} pairs of late")
    else:
        notes.append(f"two blocks are assumed to differ by {apart:.3g} by themselves: too little is known")
    needed = pairs_needed(difference, noise, level(draft), wanted_power)
    if needed is None:
        text = f"a difference of {effect:g} cannot be found among blocks that differ by {apart:.3g}: longer blocks?"
        raise InvalidField("minimum_effect", text)
    groups = given["groups"] or math.ceil(needed / len(draft.engines))
    design = design_of(given | {"groups": groups, "noise": max(apart, 1e-6)})
    pairs = groups * len(design.engines)
    measured_share = 1 - 2 * design.washout_s / design.block_s
    if measured_share < 0.5:
        notes.append(f"only {measured_share:.0%} of each block counts: longer blocks would need fewer hours")
    found = power(difference, noise, min(pairs, MOST_PAIRS), level(design))
    return Proposal(design, needed, found, tuple(notes))


def _washout_s(given: float, pilot: Pilot, notes: list[str]) -> float:
    p99_s = pilot.p99_lifetime_s
    if p99_s is None:
        if not given:
            text = f"give one, above the time that 99 % of requests take: only {pilot.requests} outcomes are known"
            raise InvalidField("washout_s", text, limit=f"measured from {LEAST_REQUESTS} on")
        notes.append(f"the washout of {given:g} s is as given: too few outcomes are known to check it by")
        return given
    if given and given < p99_s:
        raise InvalidField(
            "washout_s", f"{given:g} s is shorter than 1 % of requests live", limit=f"at least {p99_s:.3g}"
        )
    notes.append(f"99 % of {pilot.requests} requests took less than {p99_s:.3g} s")
    return given or math.ceil(p99_s * 10) / 10


def _difference(design: Design, effect: float) -> float:
    figure = FIGURES[design.figure]
    if not figure.relative:
        return effect
    if effect <= -1:
        raise InvalidField("minimum_effect", f"{effect:g} is not above -1, and a share of control's figure")
    return math.log1p(effect)
