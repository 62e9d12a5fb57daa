"""How long a predictor keeps to its error along a request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sidecar.cli.simulate.workload import Floats, Ints

SHARES = np.linspace(0.0, 0.95, 39)
LAGS = 1 - np.geomspace(1e-4, 0.9, 60)
ROWS_APART = (1, 2, 4, 8, 16, 32, 64, 128, 256)
GAP_BINS_PER_OCTAVE = 2


@dataclass(frozen=True, slots=True)
class Persistence:
    """Errors g tokens apart in one request correlate by ``share + (1 - share) * lag1**g``."""

    lag1: float
    share: float

    def correlation(self, gap_tokens: Floats) -> Floats:
        correlation: Floats = self.share + (1 - self.share) * self.lag1**gap_tokens
        return correlation


def fit_persistence(request: Ints, age: Ints, scores: Floats) -> Persistence:
    """The least-squares fit to the products of standard normal scores of rows [rows] of one request, averaged over
    pairs of about the same gap. Rows need not be of every age. Without pairs errors never change."""
    gaps, products = _pairs(request, age, scores)
    if not gaps.size:
        return Persistence(1.0, 0.0)
    octave = np.floor(np.log2(gaps) * GAP_BINS_PER_OCTAVE).astype(np.int64)
    count = np.bincount(octave)
    used = count > 0
    gap = np.bincount(octave, gaps)[used] / count[used]
    measured = np.bincount(octave, products)[used] / count[used]
    weight = np.sqrt(count[used])
    share, lag1 = np.meshgrid(SHARES, LAGS, indexing="ij")
    said = share[..., None] + (1 - share[..., None]) * lag1[..., None] ** gap
    best = int((weight * (said - measured) ** 2).sum(axis=-1).argmin())
    return Persistence(float(lag1.flat[best]), float(share.flat[best]))


def _pairs(request: Ints, age: Ints, scores: Floats) -> tuple[Floats, Floats]:
    """Gap in tokens and product of scores of pairs of rows of one request, 1, 2, 4, ... rows apart."""
    order = np.lexsort((age, request))
    request, age, scores = request[order], age[order], scores[order]
    gaps, products = [], []
    for apart in ROWS_APART:
        same = request[apart:] == request[:-apart]
        gaps.append((age[apart:] - age[:-apart])[same])
        products.append((scores[apart:] * scores[:-apart])[same])
    gap, product = np.concatenate(gaps).astype(np.float64), np.concatenate(products)
    return gap[gap > 0], product[gap > 0]
