"""Live figures beside those that an artefact was tested with, and a warning where they are materially worse."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import structlog

from predictor_service import metrics
from predictor_service.artefact import Artefact
from predictor_service.live import Figures, Windows, figures

LEAST_REQUESTS = 20
"""Below this nothing is said of an artefact."""
LEAST_FOR_WARNING = 100

# Materially worse: with 95 % confidence (bootstrap over requests) by more than this.
_MAE_FACTOR = 1.1
_TAU_LOSS = 0.05
_COVERAGE_LOSS = 0.05


@dataclass(frozen=True)
class Promised:
    """On the artefact's test data, each request weighted equally; None where the manifest does not say."""

    mae_tokens: float | None
    kendall_tau: float | None
    coverage: float | None


def promised_by(manifest_metrics: Mapping[str, Any]) -> Promised:
    """As the manifest's `metrics` has them, under the names of `predictor_service.evaluation`."""
    return Promised(
        mae_tokens=_value(manifest_metrics, "mae_tokens"),
        kendall_tau=_value(manifest_metrics, "kendall_tau_snapshot"),
        coverage=_value(manifest_metrics, "coverage_80"),
    )


def complaints(live: Figures, tested: Promised) -> list[str]:
    """What is materially worse than it was when tested; empty where there are too few requests to tell."""
    if live.requests < LEAST_FOR_WARNING:
        return []
    found = []
    if tested.mae_tokens is not None and live.mae_tokens.low > _MAE_FACTOR * tested.mae_tokens:
        found.append(f"mae_tokens {live.mae_tokens.value:.1f} instead of {tested.mae_tokens:.1f}")
    if tested.kendall_tau is not None and live.kendall_tau.high < tested.kendall_tau - _TAU_LOSS:
        found.append(f"kendall_tau {live.kendall_tau.value:.2f} instead of {tested.kendall_tau:.2f}")
    if tested.coverage is not None and live.coverage.high < tested.coverage - _COVERAGE_LOSS:
        found.append(f"coverage {live.coverage.value:.2f} instead of {tested.coverage:.2f}")
    return found


class Drift:
    """Tells Prometheus and the log how live figures compare."""

    def __init__(self, windows: Windows, *, seed: int | None = None) -> None:
        self._windows = windows
        self._rng = np.random.default_rng(seed)
        self._drifting: set[str] = set()
        self._log = structlog.get_logger("drift")

    def report(self) -> None:
        """Takes some 50 ms of a core an artefact at a window of 500, half a second at 2000; may run in a thread."""
        for artefact in self._windows.artefacts:
            judged = self._windows.judged(artefact)
            if len(judged) >= LEAST_REQUESTS:
                self._tell(artefact, figures(judged, self._rng))

    def _tell(self, artefact: Artefact, live: Figures) -> None:
        name, tested = artefact.name, promised_by(artefact.manifest.metrics)
        metrics.LIVE_REQUESTS.labels(name).set(live.requests)
        for gauge, estimate in (
            (metrics.LIVE_MAE, live.mae_tokens),
            (metrics.LIVE_TAU, live.kendall_tau),
            (metrics.LIVE_COVERAGE, live.coverage),
        ):
            gauge.labels(name).set(estimate.value)
        for gauge, value in (
            (metrics.TEST_MAE, tested.mae_tokens),
            (metrics.TEST_TAU, tested.kendall_tau),
            (metrics.TEST_COVERAGE, tested.coverage),
        ):
            gauge.labels(name).set(float("nan") if value is None else value)
        self._warn(name, complaints(live, tested), live.requests)

    def _warn(self, name: str, found: list[str], requests: int) -> None:
        if found and name not in self._drifting:
            self._log.warning("live figures are worse than tested", model=name, requests=requests, worse=found)
            self._drifting.add(name)
        elif not found and name in self._drifting:
            self._log.info("live figures are as tested again", model=name, requests=requests)
            self._drifting.discard(name)


def _value(figures: Mapping[str, Any], name: str) -> float | None:
    """A number, or an estimate with its `value`; None where there is neither."""
    found: Any = figures.get(name)
    if isinstance(found, Mapping):
        found = found.get("value")
    return float(found) if isinstance(found, int | float) else None
