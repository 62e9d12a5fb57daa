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
    """Arrays [N], in one unit, which is ``unit_s`` seconds of one place in the batch; a generated token is
    ``per_token`` of it.

    `remaining` service until the request ends, recompute included; `expected` the same by the mean of what was
    predicted; `total` service of the whole request as it was expected when it came; `attained` what it had so far;
    `recompute` how long computing its tokens again would take of each place, less what the prefix cache is likely to
    give back; `restart` is what anybody's return to the batch takes of each place besides. `duration_s` is how long a
    request would still run, in seconds.
    """

    remaining: Floats
    expected: Floats
    total: Floats
    attained: Floats
    recompute: Floats
    duration_s: Floats
    unit_s: float = 1.0
    per_token: float = 1.0
    restart: float = 0.0


def expected_work(view: EngineView, lengths: Lengths, unit: Unit) -> Work:
    """Seconds of one place: a step for each token, and prefill (and recompute) still to do, once for every place.

    An engine decodes for all places at once, but a prefill takes its time, or the step's token budget, from everyone.
    Counted alike, a prompt of 100,000 tokens with a short answer would go ahead of one of 1,000 with a longer answer.
    A step with any prefill takes some more time from everyone, however little it computes: so does each preemption, for
    the victim comes back with one.

    Tokens is the paper's variant: output tokens only; recompute is then told in steps, one token each.
    """
    step_s, rate = view.step_duration_s, view.prefill_tokens_per_s
    lost = 1 - view.found_again_share
    held = view.held_tokens()
    recompute_s = held / rate * lost
    # The newest generated token's KV entry is made by the decode step that `remaining` counts already.
    to_compute = view.prompt_tokens + view.age - (view.age > 0) - held
    resumes = ~view.running & (view.preemptions > 0) & (view.age > 0)
    begin_s = view.prefill_step_s
    prefill_s = np.where(resumes, lost, 1.0) * to_compute.clip(min=0) / rate + begin_s * (to_compute > 0)
    decode_s = lengths.remaining * step_s
    duration_s = prefill_s + decode_s
    if unit == "tokens":
        age, recompute = view.age.astype(float), recompute_s / step_s
        return Work(
            lengths.remaining, lengths.expected, lengths.total, age, recompute, duration_s,
            restart=begin_s / step_s, unit_s=step_s,
        )  # fmt: skip
    prefill_of_all_s = view.capacity.places * prefill_s
    prompt_of_all_s = view.capacity.places * (view.prompt_tokens / rate + begin_s)
    return Work(
        prefill_of_all_s + decode_s,
        prefill_of_all_s + lengths.expected * step_s,
        prompt_of_all_s + lengths.total * step_s,
        (view.age > 0) * prompt_of_all_s + view.age * step_s,
        recompute_s,
        duration_s,
        restart=begin_s,
        per_token=step_s,
    )
