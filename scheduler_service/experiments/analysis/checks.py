"""Whether an experiment can be believed: nothing was lost on one side, and no arm reaches into the next block."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from scheduler_service.experiments.analysis.pairs import Block, Pairs
from scheduler_service.experiments.analysis.sequence import Tuning, centre
from scheduler_service.experiments.figures import Figure

RESAMPLES = 9999
LEAST_PAIRS = 11
"""With fewer no order of the blocks is rare enough to fail by."""
RATIO_LEVEL = 0.001
"""As is usual for the sample-ratio check: it must not cry wolf."""
CARRYOVER_LEVEL = 0.01


@dataclass(frozen=True, slots=True)
class Check:
    """`p` is None where there is too little to check by."""

    name: str
    p: float | None
    passed: bool
    says: str


def randomisation_p(pairs: Pairs) -> float | None:
    """How often a mean difference this large comes about when only the lot decides the order of the blocks in each
    pair: exact up to 13 pairs, then by 9,999 random orders. For one look, at the end."""
    if not len(pairs):
        return None
    found = stats.permutation_test(
        (pairs.differences / 2, -pairs.differences / 2),
        lambda one, other, axis: np.mean(one - other, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def lost_blocks(blocks: Sequence[Block], arms: int, treatment: str, control: str) -> Check:
    """Of the pairs in which one block is empty or void, it is either arm's as often as the other's (sign test)."""
    groups: dict[tuple[str, int], dict[str, bool]] = defaultdict(dict)
    for block in blocks:
        groups[block.engine_id, block.number // arms][block.arm] = bool(block.requests) and not block.void
    whole = [found for found in groups.values() if treatment in found and control in found]
    lost = {arm: sum(not found[arm] and found[other] for found in whole)
            for arm, other in ((treatment, control), (control, treatment))}  # fmt: skip
    p = float(stats.binomtest(lost[treatment], sum(lost.values())).pvalue) if any(lost.values()) else None
    text = f"of {len(whole)} pairs, {lost[treatment]} have no block of {treatment}, {lost[control]} none of {control}"
    return Check("blocks by arm", p, p is None or p >= RATIO_LEVEL, text)


def lost_requests(requests: Pairs) -> Check:
    """As many requests come to either arm. In a closed loop, where clients wait for answers, a faster arm gets more."""
    p = randomisation_p(requests) if len(requests) >= LEAST_PAIRS else None
    share = f"{np.exp(requests.mean):.3f} of control's" if len(requests) else "none yet"
    return Check("requests by arm", p, p is None or p >= RATIO_LEVEL, share)


def cut_short(shares: Pairs) -> Check:
    """As many requests fail or are aborted: these have no latency, so an arm that starves them would look better."""
    p = randomisation_p(shares) if len(shares) >= LEAST_PAIRS else None
    text = "none yet"
    if len(shares):
        text = f"{shares.treated.mean():.2%} of requests fail or are aborted, {shares.control.mean():.2%} of control's"
    return Check("requests cut short", p, p is None or p >= CARRYOVER_LEVEL, text)


def far_out(pairs: Pairs, tuning: Tuning) -> Check:
    """Pairs beyond three standard deviations count as much as one there. That must not turn the verdict round."""
    middle = centre(pairs.differences, tuning)
    far = int((np.abs(pairs.differences - middle) > tuning.clip).sum())
    turned = far > 0 and float(pairs.treated.mean() - pairs.control.mean()) * middle < 0
    text = f"{far} of {len(pairs)} pairs"
    return Check("far out", None, not turned, text + (": with their whole weight the other arm wins" if turned else ""))


def carryover(blocks: Sequence[Block], arms: Sequence[str], figure: Figure) -> Check:
    """Whether the arm of the block before still shows: least squares of the figure on the engine, the block's own arm
    and the arm before, robust to unequal variances; the p-value is of the arm before (an F test)."""
    import statsmodels.api as sm

    name, rows, values = "carryover", [], []
    known = {(block.engine_id, block.number): block for block in blocks if not block.void}
    engines = sorted({block.engine_id for block in blocks})
    for (engine, number), block in sorted(known.items()):
        value, before = block.figures.get(figure.name), known.get((engine, number - 1))
        if value is None or before is None or (figure.relative and value <= 0):
            continue
        values.append(np.log(value) if figure.relative else value)
        rows.append(
            [*(engine == each for each in engines)]
            + [*(block.arm == arm for arm in arms[1:]), *(before.arm == arm for arm in arms[1:])]
        )
    more = len(arms) - 1
    design = np.array(rows, np.float64).reshape(len(rows), len(engines) + 2 * more)
    if len(values) < 4 * design.shape[1] or np.linalg.matrix_rank(design) < design.shape[1]:
        return Check(name, None, True, f"too few blocks to tell ({len(values)})")
    fitted = sm.OLS(np.array(values), design).fit(cov_type="HC3")
    restriction = np.eye(design.shape[1])[-more:]
    p = float(fitted.f_test(restriction).pvalue)
    if np.isnan(p):
        return Check(name, None, True, "nothing to tell it by: every block is alike")
    size = float(np.abs(fitted.params[-more:]).max())
    moved = f"{100 * np.expm1(size):.1f} %" if figure.relative else f"{size:.3g} {figure.unit}"
    return Check(name, p, bool(p >= CARRYOVER_LEVEL), f"the arm before moves {figure.title} by {moved}")
