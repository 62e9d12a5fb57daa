"""Bins of remaining length, and what a distribution over them says."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import erf, sqrt

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bins:
    """`edges` [B] are lower edges in tokens, the first 0, and bin i covers edges[i] <= length < edges[i+1].

    The last bin is open: an exponential tail that starts at its edge, with the mean that its
    representative says. `representatives` [B] are mean remaining lengths inside each bin, tokens.
    """

    edges: Array
    representatives: Array

    def __len__(self) -> int:
        return len(self.edges)

    def mean(self, q: Array, at_most: Array | None = None) -> Array:
        """L = sum_i q(i) m_i, tokens [N], for q [N, B].

        ``at_most`` [N]: tokens after which the request is cut, if it is; then L = sum_i q(i) min(m_i, at_most).
        """
        if at_most is None:
            return q @ self.representatives
        means: Array = (q * np.minimum(self.representatives, at_most[:, None])).sum(axis=1)
        return means

    def quantile(self, q: Array, level: float) -> Array:
        """Length [N] that is not exceeded with probability `level`, interpolated inside the bin."""
        return self.quantiles(q, (level,))[0]

    def quantiles(self, q: Array, levels: Sequence[float]) -> list[Array]:
        """As `quantile`, for several levels at once."""
        last, rows = len(self) - 1, np.arange(len(q))
        up_to_bin, level = np.cumsum(q, axis=1), np.asarray(levels)[:, None]
        # [levels, N] from here on.
        at = np.minimum((up_to_bin < level[:, :, None]).sum(axis=2), last)
        mass = q[rows, at]
        into_bin = level - (up_to_bin[rows, at] - mass)
        fraction = np.clip(into_bin / np.maximum(mass, 1e-300), 0.0, 1.0 - 1e-6)
        closed = self.edges[at] + fraction * self._widths[at]
        tail = self.edges[-1] - self._tail_mean * np.log1p(-fraction)
        return list(np.where(at == last, tail, closed))

    def probability_at_most(self, q: Array, tokens: float) -> Array:
        """P(remaining <= tokens) [N], with the same shapes inside bins as `quantile`."""
        covered = np.clip((tokens - self.edges) / self._widths, 0.0, 1.0)
        covered[-1] = -np.expm1(-max(tokens - self.edges[-1], 0.0) / self._tail_mean)
        return q @ covered

    def spread(self, mean_tokens: float, standard_error_tokens: float) -> Array:
        """Bin probabilities [B] of a log-normal length with this mean and standard deviation."""
        variance = np.log1p((standard_error_tokens / mean_tokens) ** 2)
        location = np.log(mean_tokens) - variance / 2
        scale = max(float(np.sqrt(variance)), 1e-3)
        with np.errstate(divide="ignore"):
            below_edge = _normal_cdf((np.log(self.edges) - location) / scale)
        return np.diff(below_edge, append=1.0)

    @cached_property
    def _tail_mean(self) -> float:
        return max(float(self.representatives[-1] - self.edges[-1]), 1.0)

    @cached_property
    def _widths(self) -> Array:
        return np.diff(self.edges, append=self.edges[-1] + self._tail_mean)


def _normal_cdf(z: Array) -> Array:
    return np.array([0.5 * (1.0 + erf(value / sqrt(2.0))) for value in z])
