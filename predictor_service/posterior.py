"""Bayesian refinement of a distribution over bins of remaining length (DESIGN.md, "Predictor")."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from predictor_service.bins import Array

# Likelihoods of exactly 0 are a matter of rounding in the classifier, not knowledge.
_LEAST_LIKELIHOOD = 1e-9
_LEAST_MASS = 1e-300


class Transition:
    """What one more token does to a distribution: mass leaves bin i for bin i - 1 at `rates`[i].

    What leaves bin 0 would have finished. The request is known to be alive, so that mass is dropped
    and the rest renormalised. `absorbing=True` keeps it in bin 0, as the paper does: a baseline.
    """

    def __init__(self, rates: Array, *, absorbing: bool = False) -> None:
        step = np.diag(1.0 - rates) + np.diag(rates[1:], k=-1)
        if absorbing:
            step[0, 0] = 1.0
        # Entry k moves a distribution on by 2**k tokens; scaled, for only proportions matter.
        self._powers = [step]

    def advance(self, q: Array, steps: npt.NDArray[np.int64]) -> Array:
        """Distributions [N, B] after `steps` [N] >= 0 more tokens each, given that none has finished."""
        moved = q.copy()
        for bit in range(int(steps.max(initial=0)).bit_length()):
            rows = (steps >> bit) & 1 == 1
            # Mostly every row is one token older; a mask would copy them all twice.
            chosen = slice(None) if rows.all() else rows
            moved[chosen] = _normalised(moved[chosen] @ self._power(bit))
        return moved

    def _power(self, bit: int) -> Array:
        while len(self._powers) <= bit:
            square = self._powers[-1] @ self._powers[-1]
            self._powers.append(square / max(float(square.max()), 1e-300))
        return self._powers[bit]


@dataclass(frozen=True)
class Evidence:
    """How the classifier's output `p` [N, B] moves a prior.

    `prior` is pi, the training frequency of each bin [B] (all alike as in the paper); `tau` in (0, 1]
    tempers evidence that repeats itself from step to step; `forgetting` in [0, 1] is the forgetting factor
    of recursive estimation, 1 to forget nothing; `floor` is the least mass of a bin (before the rest is
    scaled to make room), so that none dies.

    The classifier has seen the whole prefix through attention, so its outputs are not independent evidence:
    counted as such (forgetting 1) a posterior grows bolder with every step. With forgetting = 1 - tau this is
    the logarithmic opinion pool of what was known and what the classifier says now, as sure as its parts.
    """

    prior: Array
    tau: float
    floor: float
    forgetting: float = 1.0

    def start(self, p: Array) -> Array:
        """The first posterior [N, B] of a request: what the classifier says."""
        return _normalised(np.maximum(p, _LEAST_LIKELIHOOD))

    def update(self, q: Array, p: Array) -> Array:
        """q'(i) proportional to pi(i) * (q(i) / pi(i))**forgetting * (p(i) / pi(i))**tau.

        Rows of `q` are priors for this step. Forgetting 1 is DESIGN.md's form: q(i) * (p(i) / pi(i))**tau.
        """
        score = self.forgetting * np.log(np.maximum(q, _LEAST_MASS))
        score += self.tau * np.log(np.maximum(p, _LEAST_LIKELIHOOD))
        score += (1.0 - self.forgetting - self.tau) * np.log(self.prior)
        return self._floored(_normalised(np.exp(score - score.max(axis=1, keepdims=True))))

    def _floored(self, q: Array) -> Array:
        return _normalised(np.maximum(q, self.floor))


def _normalised(mass: Array) -> Array:
    """Rows that sum to 1; a row from which all mass has gone says nothing, so it becomes uniform."""
    total = mass.sum(axis=1, keepdims=True)
    gone = total <= 1e-300
    if not gone.any():
        scaled: Array = mass / total
        return scaled
    return np.where(gone, 1.0 / mass.shape[1], mass / np.where(gone, 1.0, total))
