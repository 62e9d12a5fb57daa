"""What a row is labelled with: bins of remaining length, and the ages at which a response is looked at."""

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def log_edges(bins: int, first_width: int, last_edge: int) -> Ints:
    """Lower edges of ``bins`` bins: 0, then log-spaced from ``first_width`` to ``last_edge``; the last is open.

    Raises ValueError where rounding to whole tokens would make two edges equal.
    """
    edges = np.concatenate([[0], np.rint(np.geomspace(first_width, last_edge, bins - 1))]).astype(np.int64)
    if np.any(np.diff(edges) <= 0):
        raise ValueError(f"bins: {bins} bins do not fit between {first_width} and {last_edge} tokens")
    return edges


def equal_edges(bins: int, end: int) -> Ints:
    """Lower edges of ``bins`` bins of one width over [0, end), tokens; the last is open. The paper's form."""
    return np.arange(bins, dtype=np.int64) * -(-end // bins)


def label(remaining: Ints, edges: Ints) -> Ints:
    """The bin of each remaining length: the last i with edges[i] <= remaining."""
    return np.searchsorted(edges, remaining, side="right") - 1


def sample_ages(length: int, most: int, rng: np.random.Generator) -> Ints:
    """Up to ``most`` distinct ages in [0, length), sorted: 0, then half log-spaced (early), half uniform.

    Age ``length`` is not among them: the request has finished and nobody asks for its prediction.
    """
    if length <= most:
        return np.arange(length, dtype=np.int64)
    later = most - 1
    early = np.exp(rng.uniform(0.0, np.log(length), later // 2)).astype(np.int64)
    chosen = np.unique(np.concatenate([[0], early]))
    rest = np.setdiff1d(np.arange(1, length, dtype=np.int64), chosen)
    return np.sort(np.concatenate([chosen, rng.choice(rest, most - len(chosen), replace=False)]))


def tail_hazard(lengths: Ints, finished: NDArray[np.bool_], from_length: int) -> float:
    """Chance per token that a response past ``from_length`` ends, censored ones counted as survivors.

    Maximum likelihood of a constant hazard: endings / tokens at risk. Raises ValueError with no ending to count.
    """
    past = lengths > from_length
    endings = int(np.sum(finished & past))
    if endings == 0:
        raise ValueError(f"lengths: none ended past {from_length} tokens, so the open bin has no rate")
    return endings / float(np.sum(lengths[past] - from_length))


def representatives(remaining: Ints, edges: Ints) -> Floats:
    """Mean of the remaining lengths that fall in each bin [bins], tokens.

    The open bin counts as its lower edge, the cap of the training responses: nothing longer was seen, so
    means are restricted to it. (A tail extrapolated from the few endings near the cap is four times the
    cap and, with a few per cent of mass, drowns all else in the mean.)
    """
    bins = label(remaining, edges)
    total = np.bincount(bins, minlength=len(edges))
    sums = np.bincount(bins, remaining, len(edges))
    middles = np.append((edges[:-1] + edges[1:] - 1) / 2, edges[-1])
    means = np.where(total > 0, sums / np.maximum(total, 1), middles)
    means[-1] = edges[-1]
    return means


def leaving_rates(edges: Ints, hazard: float) -> Floats:
    """Chance per token [bins] that a living request moves one bin down: one over the bin's live lengths.

    A living request has at least one token to come, so remaining length 0 is no live length of bin 0.
    """
    widths = np.diff(edges).astype(np.float64)
    widths[0] = max(widths[0] - 1, 1.0)
    return np.append(1 / widths, hazard)
