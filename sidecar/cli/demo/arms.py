"""The arms that the demo compares."""

from __future__ import annotations

from dataclasses import dataclass

STOCK = "stock"


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to schedule. ``predictor`` None: vLLM's own class, no adapter."""

    name: str
    what: str
    policy: str = "trail"
    predictor: str | None = None
    declares_length: bool = False
    """Whether requests carry their true length, for the oracle."""


ARMS = (
    Arm(STOCK, "vLLM's own scheduler, no adapter"),
    Arm("trail", "predictions refined at each token", predictor="per_step"),
    Arm("prompt_only", "predictions from the prompt alone", predictor="prompt_only"),
    Arm("shuffled", "predictions exchanged between requests", predictor="shuffled"),
    Arm("oracle", "true lengths", predictor="oracle", declares_length=True),
)
