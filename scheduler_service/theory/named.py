"""Distributions by name: what the command and the benchmark are told."""

from __future__ import annotations

from scheduler_service.theory import errors
from scheduler_service.theory.errors import NODES, Factor
from scheduler_service.theory.joint import JointDensity, scaled
from scheduler_service.theory.sizes import ExponentialSizes, LogNormalSizes, Sizes

SMALLEST_SIGMA, LARGEST_SIGMA = 0.1, 2.0
"""Between these the quadrature was checked."""


def joint_named(sizes: str, predictions: str, finer: int = 1) -> JointDensity:
    """The joint density of ``sizes`` (mean 1) and ``predictions``; ``finer`` quadrature.

    Raises:
        ValueError: an unknown name or a bad sigma; the text starts with the name of the field.
    """
    return scaled(sizes_named(sizes), predictions_named(predictions, finer * NODES), finer)


def sizes_named(name: str) -> Sizes:
    """``exponential`` or ``lognormal:SIGMA``."""
    match name.partition(":"):
        case ("exponential", "", _):
            return ExponentialSizes()
        case ("lognormal", ":", sigma):
            return LogNormalSizes(_sigma("sizes", sigma))
    raise ValueError(f"sizes: {name!r} is not known: give exponential or lognormal:SIGMA, as lognormal:1")


def predictions_named(name: str, nodes: int = NODES) -> Factor:
    """``perfect``, ``exponential`` or ``lognormal:SIGMA``: the prediction divided by the size."""
    match name.partition(":"):
        case ("perfect", "", _):
            return errors.perfect()
        case ("exponential", "", _):
            return errors.exponential(nodes)
        case ("lognormal", ":", sigma):
            return errors.lognormal(_sigma("predictions", sigma), nodes)
    raise ValueError(
        f"predictions: {name!r} is not known: give perfect, exponential or lognormal:SIGMA, as lognormal:0.75"
    )


def _sigma(field: str, text: str) -> float:
    try:
        sigma = float(text)
    except ValueError:
        sigma = float("nan")
    if not SMALLEST_SIGMA <= sigma <= LARGEST_SIGMA:
        raise ValueError(
            f"{field}: sigma {text!r} must be a number from {SMALLEST_SIGMA:g} to {LARGEST_SIGMA:g}, as lognormal:0.75"
        )
    return sigma
