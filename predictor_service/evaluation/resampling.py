"""Figures with 95 % intervals from drawing prompts again: requests and positions of one prompt move together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from predictor_service.evaluation.metrics import RESAMPLES, Estimate
from predictor_service.training.labels import Floats, Ints


@dataclass(frozen=True)
class Sample:
    """Positions [rows], each weighing 1 / positions of its request, so that every request counts the same.

    Figures come as arrays [1 + draws]: entry 0 of the sample itself, the others of its prompts drawn with replacement.
    """

    prompt: Ints  # [rows] 0..prompts-1, rising
    weight: Floats  # [rows]
    order: Ints  # [rows] where each row was in what `of` was given
    times: Floats  # [1 + draws, prompts] how often each draw has each prompt

    @classmethod
    def of(cls, request: Ints, prompt: Ints, seed: int = 0) -> "Sample":
        """``request`` and ``prompt`` [rows] name what each row belongs to, by any integers. Needs a row."""
        _, own, positions = np.unique(request, return_inverse=True, return_counts=True)
        _, prompt = np.unique(prompt, return_inverse=True)
        order = np.argsort(prompt, kind="stable")
        prompts = int(prompt.max()) + 1
        drawn = np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1 / prompts), RESAMPLES)
        times = np.concatenate([np.ones((1, prompts)), drawn])
        return cls(prompt[order], (1 / positions[own])[order], order, times)

    def mean(self, values: Floats) -> Floats:
        """Weighted mean [1 + draws] of values [rows], or [1 + draws, k] of values [rows, k]."""
        start = np.flatnonzero(np.diff(self.prompt, prepend=-1))
        ordered = values[self.order]
        weight = self.weight.reshape(-1, *[1] * (values.ndim - 1))
        total = self.times @ np.add.reduceat(self.weight, start)
        sums = self.times @ np.add.reduceat(weight * ordered, start)
        return np.asarray((sums.T / total).T)

    def median(self, values: Floats) -> Floats:
        """Weighted median [1 + draws] of values [rows]: the least value that half of the weight does not exceed."""
        rising = np.argsort(values[self.order])
        ordered, weight, prompt = values[self.order][rising], self.weight[rising], self.prompt[rising]
        below = (np.cumsum(weight * times[prompt]) for times in self.times)
        return np.array([ordered[np.searchsorted(sums, sums[-1] / 2)] for sums in below])

    def tau(self, a: Floats, b: Floats) -> Floats:
        """Kendall's tau-b [1 + draws] of a and b [rows]; a pair of rows counts the product of their weights.

        sum w_i w_j sgn(a_i - a_j) sgn(b_i - b_j) / sqrt(sum of w_i w_j where a tells i and j apart * the same of b)

        over all pairs i < j: of equal weights what scipy.stats.kendalltau computes, of others what its weightedtau does
        with those weights multiplied. 0 where one side tells nothing apart. The pairs are summed up by pair of prompts
        once, for a draw changes only how often these count.
        """
        agreement, ours, theirs = (
            ((self.times @ pairs) * self.times).sum(axis=1) for pairs in self._pairs(_ranks(a), _ranks(b))
        )
        apart = np.sqrt(ours * theirs)
        return np.asarray(np.divide(agreement, apart, out=np.zeros_like(apart), where=apart > 0))

    def _pairs(self, a: Floats, b: Floats) -> Floats:
        """Sums over pairs of rows [3, prompts, prompts]: concordance, told apart by a, told apart by b."""
        a, b = a[self.order], b[self.order]
        start = np.flatnonzero(np.diff(self.prompt, prepend=-1))
        sums = np.empty((3, len(start), len(start)))
        for number, (first, last) in enumerate(zip(start, [*start[1:], len(a)], strict=True)):
            by_a = np.sign(a[first:last, None] - a)
            by_b = np.sign(b[first:last, None] - b)
            for kind, pairs in enumerate((by_a * by_b, np.abs(by_a), np.abs(by_b))):
                sums[kind, number] = np.add.reduceat(self.weight[first:last] @ pairs * self.weight, start)
        return sums


def interval(drawn: Floats) -> Floats:
    """Lower and upper end of the 95 % interval [2, ...] of figures [1 + draws, ...]."""
    return np.asarray(np.quantile(drawn[1:], [0.025, 0.975], axis=0))


def estimate(drawn: Floats) -> Estimate:
    """Value and 95 % interval of a figure [1 + draws]."""
    low, high = interval(drawn)
    return {name: round(float(x), 4) for name, x in (("value", drawn[0]), ("low", low), ("high", high))}


def mean_of(drawn: Sequence[Floats]) -> Floats:
    """The mean of several figures, draw by draw."""
    return np.asarray(np.mean(drawn, axis=0))


def _ranks(values: Floats) -> Floats:
    """Dense ranks [rows]: small whole numbers, whose differences are exact."""
    return np.asarray(np.unique(values, return_inverse=True)[1], dtype=np.float64)
