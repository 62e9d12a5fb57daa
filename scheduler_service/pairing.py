"""Predictor pairings: which lengths a policy gets to see.

The same policy with another pairing is another arm of an experiment: the paper's SJF-BERT is sjf with
prompt_only, its TRAIL is trail with per_step, its TRAIL+ is trail with oracle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np

from scheduler_service.view import Bools, EngineView, Floats, Ints

MIN_REMAINING_TOKENS = 1.0
"""A living request has at least this to come, however wrong its prediction was."""


@dataclass(frozen=True, slots=True, eq=False)
class Lengths:
    """What a policy believes, arrays [N].

    `remaining` tokens still to come (>= 1), to order by; `expected` the same as a mean, to weigh gains by; `total`
    tokens r of the cut-off c * r; `predicted_at_age` the age at which the prediction was made (-1: there was none, the
    engine's mean stands in); `posterior` where these are figures of the view's own newest prediction; `fallback` where
    the pairing had to use something else than its name says.
    """

    remaining: Floats
    expected: Floats
    total: Floats
    predicted_at_age: Ints
    posterior: Bools
    fallback: Bools


class Evidence(Enum):
    """What must not stay unanswered by the predictor for a pairing's lengths to be believed."""

    NONE = auto()
    ARRIVALS = auto()
    PROGRESS = auto()


@dataclass(frozen=True, slots=True)
class Pairing:
    """A named way to lengths."""

    name: str
    lengths: Callable[[EngineView], Lengths]
    evidence: Evidence


def per_step(view: EngineView) -> Lengths:
    """The newest prediction, counted down by one for each token generated since.

    The median: it orders requests better than the mean, which a little mass in the last bins drowns (Kendall's tau 0.64
    against 0.59, docs/accuracy).
    """
    predicted = view.predicted_at_age >= 0
    total = _known_total(view, np.where(view.r1 > 0, view.r1, view.r0))
    since = view.age - view.predicted_at_age
    counted_down = total - view.age
    remaining = np.where(predicted, view.median - since, counted_down)
    expected = np.where(predicted, view.mean - since, counted_down)
    return Lengths(_alive(remaining), _alive(expected), total, view.predicted_at_age, predicted, ~predicted)


def prompt_only(view: EngineView) -> Lengths:
    """r0 counted down by age."""
    return _counted_down(view, view.r0)


def shuffled(view: EngineView) -> Lengths:
    """Another request's total counted down by age: right in distribution, useless for order."""
    return _counted_down(view, view.borrowed_r)


def oracle(view: EngineView) -> Lengths:
    """The declared output length; per_step, flagged, where the client declared none."""
    otherwise, declared = per_step(view), view.declared_output_tokens.astype(np.float64)
    told = declared > 0
    left = _alive(declared - view.age)
    return Lengths(
        np.where(told, left, otherwise.remaining),
        np.where(told, left, otherwise.expected),
        np.where(told, declared, otherwise.total),
        np.where(told, 0, otherwise.predicted_at_age),
        otherwise.posterior & ~told,
        ~told,
    )


def _counted_down(view: EngineView, predicted_total: Floats) -> Lengths:
    known = predicted_total > 0
    total = _known_total(view, predicted_total)
    remaining = _alive(total - view.age)
    return Lengths(remaining, remaining, total, np.where(known, 0, -1), np.zeros(len(view), dtype=np.bool_), ~known)


def _known_total(view: EngineView, predicted_total: Floats) -> Floats:
    """Requests that nobody predicted are taken to be like those that finished here."""
    return np.where(predicted_total > 0, predicted_total, max(view.mean_output_tokens, MIN_REMAINING_TOKENS))


def _alive(remaining: Floats) -> Floats:
    return np.maximum(remaining, MIN_REMAINING_TOKENS)


PAIRINGS = {
    pairing.name: pairing
    for pairing in (
        Pairing("per_step", per_step, Evidence.PROGRESS),
        Pairing("prompt_only", prompt_only, Evidence.ARRIVALS),
        Pairing("shuffled", shuffled, Evidence.PROGRESS),
        Pairing("oracle", oracle, Evidence.NONE),
    )
}
