"""A verdict in words."""

from __future__ import annotations

import math

from scheduler_service.experiments.analysis.effects import Effect
from scheduler_service.experiments.analysis.verdict import Verdict
from scheduler_service.experiments.design import Design
from scheduler_service.experiments.figures import FIGURES

MUCH = 1e3
"""A share above this is no figure any more."""


def headline(design: Design, verdict: Verdict) -> str:
    """One sentence that somebody who was not there understands."""
    effect, control = verdict.deciding, design.control.name
    title = FIGURES[effect.figure].title
    if not effect.pairs:
        return f"{verdict.arm}: nothing to compare with {control} yet"
    if not verdict.believable:
        failed = ", ".join(check.name for check in verdict.checks if not check.passed)
        return f"{verdict.arm}: not to be believed, for a check failed ({failed}); {title} {effect_text(effect)}"
    if effect.says == "undecided":
        return f"{verdict.arm}: no difference from {control} shown in {title} yet ({range_text(effect)})"
    later = "; shown earlier, and no longer" if effect.low < 0 < effect.high else ""
    return f"{verdict.arm} is {effect.says} than {control}: {title} {effect_text(effect)} ({range_text(effect)}{later})"


def effect_text(effect: Effect) -> str:
    """As +12.3 %, or in the figure's unit."""
    return _told(effect, effect.estimate)


def range_text(effect: Effect) -> str:
    """Its interval; unbounded where the pairs do not suffice for one."""
    if effect.low <= (-1.0 if FIGURES[effect.figure].relative else -math.inf) and effect.high > MUCH:
        return "any"
    return f"{_told(effect, effect.low)} to {_told(effect, effect.high)}"


def _told(effect: Effect, value: float) -> str:
    if math.isnan(value):
        return "-"
    if math.isinf(value) or (FIGURES[effect.figure].relative and value > MUCH):
        return "any more" if value > 0 else "any less"
    return f"{value:+.1%}" if FIGURES[effect.figure].relative else f"{value:+.3g}"
