"""What a predictor says of every request at every age, with an error model in place of a predictor.

Everything is drawn when the workload is, so every policy of a seed sees the same predictions, whatever it does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from scheduler_service.messages import Predictions
from sidecar.cli.simulate.workload import Floats, Ints

PROMPT, PREFILL, DECODE = 1, 2, 3
"""Stages, as in trail.v1."""
LEAST_TOKENS = 1.0
"""A living request has at least this to come, so nobody predicts less."""


@dataclass(frozen=True, slots=True, eq=False)
class Lengths:
    """Predicted lengths in tokens, arrays of one shape: of what remains, or of the total at the prompt stage."""

    mean: Floats
    median: Floats
    p10: Floats
    p90: Floats

    @classmethod
    def of_quantiles(cls, median: Floats, p10: Floats, p90: Floats) -> Lengths:
        """With the mean that these three suggest: 0.3 p10 + 0.4 median + 0.3 p90 (Swanson's rule)."""
        return cls(0.3 * p10 + 0.4 * median + 0.3 * p90, median, p10, p90)

    @classmethod
    def exact(cls, lengths: Floats) -> Lengths:
        return cls(lengths, lengths, lengths, lengths)


@dataclass(frozen=True, slots=True, eq=False)
class Paths:
    """Predictions of N requests. ``total`` [N] at the prompt stage; ``remaining`` [T], one entry for each token that
    they generate: entry ``start[i] + age`` is of request i when ``age`` tokens have passed the model."""

    start: Ints
    total: Lengths
    remaining: Lengths

    def on_arrival(self, requests: Ints) -> Predictions:
        """What is known of requests [M] from their prompts."""
        total, nothing = self.total, np.zeros(len(requests))
        return Predictions(
            ages=np.zeros(len(requests), np.int64),
            stages=np.full(len(requests), PROMPT, np.int64),
            mean=total.mean[requests],
            median=total.median[requests],
            p10=total.p10[requests],
            p90=total.p90[requests],
            r0=total.median[requests],
            r1=nothing,
        )

    def at_ages(self, requests: Ints, ages: Ints) -> Predictions:
        """What is known of requests [M] when ``ages`` [M] tokens of each have passed the model; 0: its prompt."""
        rows, remaining = self.start[requests] + ages, self.remaining
        return Predictions(
            ages=ages,
            stages=np.where(ages > 0, DECODE, PREFILL),
            mean=remaining.mean[rows],
            median=remaining.median[rows],
            p10=remaining.p10[rows],
            p90=remaining.p90[rows],
            r0=self.total.median[requests],
            r1=remaining.median[self.start[requests]],
        )


class ErrorModel(Protocol):
    """Draws predictions for requests of known lengths."""

    def paths(self, output_tokens: Ints, rng: np.random.Generator) -> Paths:
        """Predictions of requests that will generate ``output_tokens`` [N]."""
        ...


def spread(output_tokens: Ints) -> tuple[Ints, Ints, Ints]:
    """Start [N] of each request's entries, and request and age of every entry [T]."""
    start: Ints = np.cumsum(output_tokens) - output_tokens
    request = np.repeat(np.arange(len(output_tokens)), output_tokens)
    return start, request, np.arange(len(request)) - start[request]


def persistent_scores(
    output_tokens: Ints, rng: np.random.Generator, lag1: float, share: float, with_prompt: float
) -> tuple[Floats, Floats]:
    """Standard normal scores of the errors: at the prompt stage [N], and of every entry [T].

    Scores g tokens apart in one request correlate by ``share + (1 - share) * lag1**g``; the prompt stage's with the
    first entry's by ``with_prompt``, as far as the share that stays allows.
    """
    count = len(output_tokens)
    at_prompt = rng.standard_normal(count)
    kept = np.clip(with_prompt / np.sqrt(share), -1, 1) if share > 0 else 0.0
    staying = kept * at_prompt + np.sqrt(1 - kept**2) * rng.standard_normal(count)
    start, _, _ = spread(output_tokens)
    scores = np.empty(int(output_tokens.sum()))
    longest_first = np.argsort(-output_tokens, kind="stable")
    alive = np.searchsorted(-output_tokens[longest_first], -np.arange(int(output_tokens.max(initial=0))), side="left")
    moving = rng.standard_normal(count)
    for age, living in enumerate(alive.tolist()):
        requests = longest_first[:living]
        if age:
            fresh = rng.standard_normal(living)
            moving[requests] = lag1 * moving[requests] + np.sqrt(1 - lag1**2) * fresh
        scores[start[requests] + age] = np.sqrt(share) * staying[requests] + np.sqrt(1 - share) * moving[requests]
    return at_prompt, scores
