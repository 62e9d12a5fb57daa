"""What ``--predictions`` names."""

from __future__ import annotations

from pathlib import Path

from sidecar.cli.simulate.confusion import Measured, load_confusion
from sidecar.cli.simulate.error_models import LogNormal, Oracle, Refined, Shuffled
from sidecar.cli.simulate.errors import SimulateError
from sidecar.cli.simulate.predictions import ErrorModel

KNOWN = "oracle, lognormal:SIGMA, refined:SIGMA, measured:DIR, shuffled"
MOST_SIGMA = 5.0


def parse_predictions(text: str) -> ErrorModel:
    """Reads ``oracle``, ``lognormal:SIGMA``, ``refined:SIGMA``, ``measured:DIR`` or ``shuffled``.

    Raises:
        SimulateError: none of these, or the artefact's folder holds no confusion.
    """
    name, _, given = text.partition(":")
    if text == "oracle":
        return Oracle()
    if text == "shuffled":
        return Shuffled()
    if name == "lognormal":
        return LogNormal(_sigma(text, given))
    if name == "refined":
        return Refined(_sigma(text, given))
    if name == "measured" and given:
        return Measured(load_confusion(Path(given)))
    raise SimulateError(f"--predictions {text}: not one of {KNOWN}")


def _sigma(text: str, given: str) -> float:
    try:
        sigma = float(given)
    except ValueError:
        sigma = -1.0
    if not 0 <= sigma <= MOST_SIGMA:
        raise SimulateError(f"--predictions {text}: sigma: {given!r} is not a number within 0 to {MOST_SIGMA:g}")
    return sigma
