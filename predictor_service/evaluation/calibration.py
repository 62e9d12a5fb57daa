"""Whether predicted distributions mean what they say."""

import numpy as np

from predictor_service.bins import Bins
from predictor_service.evaluation.predicted import Array, Predicted
from predictor_service.training.labels import Floats, Ints

SERVED_LEVELS = 0.1, 0.5, 0.9
DECILES = np.arange(1, 10) / 10


def coverage(predicted: Predicted) -> Floats:
    """1 where the truth lies in the interval from p10 to p90, both included, as they are served; else 0 [rows]."""
    return ((predicted.p10 <= predicted.truth) & (predicted.truth <= predicted.p90)).astype(np.float64)


def pinball(predicted: Predicted) -> Floats:
    """Mean pinball loss [rows] of p10, median and p90, tokens: max(level * (t - x), (level - 1) * (t - x))."""
    losses = []
    for level, quantile in zip(SERVED_LEVELS, (predicted.p10, predicted.median, predicted.p90), strict=True):
        short = predicted.truth - quantile
        losses.append(np.maximum(level * short, (level - 1) * short))
    return np.asarray(np.mean(losses, axis=0))


def levels(predicted: Predicted, bins: Bins, max_tokens: int, seed: int) -> Floats:
    """Probability integral transform [rows]: uniform on 0..1 where the posterior is calibrated. Needs `q`.

    Lengths are whole tokens, so it is drawn uniformly between P(remaining < truth) and P(remaining <= truth); what lies
    past the cap counts as the cap, where a request is cut.
    """
    if predicted.q is None:
        raise ValueError("predicted: levels need the posterior q")
    below = _probability_below(bins, predicted.q, predicted.truth)
    up_to = np.where(
        predicted.truth >= max_tokens - predicted.age,
        1.0,
        _probability_below(bins, predicted.q, predicted.truth + 1),
    )
    share = np.random.default_rng(seed).random(len(predicted))
    return np.asarray(below + share * (up_to - below))


def below(predicted: Predicted, level_of: Floats | None) -> tuple[Floats, Floats]:
    """Nominal levels [k] and, for each row, whether the truth lies below that quantile [rows, k].

    The deciles of the posterior where ``level_of`` (from `levels`) is there, else p10, median and p90 as served.
    """
    if level_of is not None:
        return DECILES, (level_of[:, None] <= DECILES).astype(np.float64)
    quantiles = np.stack([predicted.p10, predicted.median, predicted.p90], axis=1)
    return np.array(SERVED_LEVELS), (predicted.truth[:, None] <= quantiles).astype(np.float64)


def expected_calibration_error(share_below: Floats, nominal: Floats) -> Floats:
    """Mean over the levels of |share of truths below the quantile - level| [1 + draws], of shares [1 + draws, k]."""
    return np.asarray(np.abs(share_below - nominal).mean(axis=1))


def _probability_below(bins: Bins, q: Array, tokens: Floats) -> Floats:
    """P(remaining < tokens) [rows], as the service computes it; one call for each distinct length."""
    probability = np.empty(len(q))
    order = np.argsort(tokens, kind="stable")
    values, first = np.unique(tokens[order], return_index=True)
    rows: list[Ints] = np.split(order, first[1:])
    for value, at in zip(values, rows, strict=True):
        probability[at] = bins.probability_at_most(q[at].astype(np.float64), float(value))
    return probability
