"""How good an artefact's predictions are for the newest requests that it served."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from predictor_service.artefact import Artefact
from predictor_service.bins import Array
from predictor_service.journal import Notes

RESAMPLES = 400


@dataclass(frozen=True)
class Judged:
    """One finished request: mean absolute error of its predictions (tokens), share of them whose 80 % interval held
    the truth, and one of them beside the truth, tokens still to come."""

    error_tokens: float
    covered: float
    predicted: float
    truth: float


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval from resampling requests."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Figures:
    requests: int
    mae_tokens: Estimate
    kendall_tau: Estimate
    coverage: Estimate


def judge(notes: Notes, output_tokens: int, rng: np.random.Generator) -> Judged | None:
    """None where nothing was predicted from hidden states. The prediction beside the truth is a random one."""
    if not notes.predictions:
        return None
    age, median, p10, p90 = np.array(notes.predictions, dtype=np.float64).T
    truth = np.maximum(output_tokens - age, 0.0)
    one = int(rng.integers(len(truth)))
    covered = (p10 <= truth) & (truth <= p90)
    return Judged(float(np.abs(median - truth).mean()), float(covered.mean()), float(median[one]), float(truth[one]))


class Windows:
    """The newest `size` judged requests of each artefact, by its name; a replaced artefact starts anew."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._windows: dict[str, tuple[Artefact, deque[Judged]]] = {}

    def add(self, artefact: Artefact, judged: Judged) -> None:
        self._window(artefact).append(judged)

    def judged(self, artefact: Artefact) -> Sequence[Judged]:
        """Oldest first."""
        return tuple(self._window(artefact))

    @property
    def artefacts(self) -> list[Artefact]:
        return [artefact for artefact, _ in self._windows.values()]

    def _window(self, artefact: Artefact) -> deque[Judged]:
        held = self._windows.get(artefact.name)
        if held is None or held[0] is not artefact:
            held = self._windows[artefact.name] = (artefact, deque(maxlen=self._size))
        return held[1]


def figures(judged: Sequence[Judged], rng: np.random.Generator) -> Figures:
    """Error and coverage with each request weighted equally; Kendall's tau-b over one prediction of each request."""
    error, covered, predicted, truth = columns(judged)
    times = resampled(len(judged), rng)
    return Figures(
        requests=len(judged),
        mae_tokens=_estimate(error.mean(), times @ error / len(judged)),
        kendall_tau=_estimate(*_kendall(predicted, truth, times)),
        coverage=_estimate(covered.mean(), times @ covered / len(judged)),
    )


def columns(judged: Sequence[Judged]) -> tuple[Array, Array, Array, Array]:
    """error_tokens, covered, predicted and truth [N]."""
    error, covered, predicted, truth = np.array([(j.error_tokens, j.covered, j.predicted, j.truth) for j in judged]).T
    return error, covered, predicted, truth


def resampled(requests: int, rng: np.random.Generator) -> Array:
    """How often each request was drawn in each bootstrap sample [RESAMPLES, requests]."""
    return rng.multinomial(requests, np.full(requests, 1 / requests), size=RESAMPLES).astype(np.float64)


def _estimate(value: float, drawn: npt.NDArray[np.float64]) -> Estimate:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(float(value), float(low), float(high))


def _kendall(predicted: Array, truth: Array, times: Array) -> tuple[float, Array]:
    """tau-b = (concordant - discordant) / sqrt(pairs that differ in one * in the other): over all, and resampled."""
    # Whole numbers below 2**24, which float32 holds exactly.
    a, b = (np.sign(values[:, None] - values[None, :]).astype(np.float32) for values in (predicted, truth))
    weights = np.vstack([np.ones(len(truth)), times]).astype(np.float32)
    agreement, ours, theirs = (((weights @ pairs) * weights).sum(axis=1) for pairs in (a * b, np.abs(a), np.abs(b)))
    tau = agreement / np.maximum(np.sqrt(ours * theirs), 1.0)
    return float(tau[0]), tau[1:]
