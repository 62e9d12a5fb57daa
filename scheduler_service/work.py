"""Expected service still to give: what ranks, gains and costs are counted in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from scheduler_service.pairing import Lengths
from scheduler_service.view import EngineView, Floats

Unit = Literal["seconds", "tokens"]


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """Arrays [N], all in the same unit, which is ``unit_s`` seconds; a generated token is ``per_token`` of it.

    `remaining` service until the request ends, recompute included; `expected` the same by the mean of what was
    predicted; `total` service of the whole request as it was expected when it came; `attained` what it had so far;
    `recompute` how long computing its tokens again would take, less what the prefix cache is likely to give back.
    """

    remaining: Floats
    expected: Floats
    total: Floats
    attained: Floats
    recompute: Floats
    unit_s: float = 1.0
    per_token: float = 1.0


def expected_work(view: EngineView, lengths: Lengths, unit: Unit) -> Work:
    """Seconds: prefill (and recompute) still to do at the prefill rate, and one step a token.

    Tokens is the paper's variant: output tokens only; recompute is then told in steps, one token each.
    """
    step_s, rate = view.step_duration_s, view.prefill_tokens_per_s
    lost = 1 - view.found_again_share
    held = view.held_tokens()
    recompute_s = held / rate * lost
    if unit == "tokens":
        age = view.age.astype(float)
        return Work(lengths.remaining, lengths.expected, lengths.total, age, recompute_s / step_s, unit_s=step_s)
    # The newest generated token's KV entry is made by the decode step that `remaining` counts already.
    to_compute = view.prompt_tokens + view.age - (view.age > 0) - held
    resumes = ~view.running & (view.preemptions > 0) & (view.age > 0)
    prefill_s = np.where(resumes, lost, 1.0) * to_compute.clip(min=0) / rate
    prompt_s = view.prompt_tokens / rate
    return Work(
        prefill_s + lengths.remaining * step_s,
        prefill_s + lengths.expected * step_s,
        prompt_s + lengths.total * step_s,
        (view.age > 0) * prompt_s + view.age * step_s,
        recompute_s,
        per_token=step_s,
    )
