"""How fast one engine steps and prefills, measured from what it reports."""

from __future__ import annotations

import math

_SMOOTHING = 0.1
_MIN_PREFILL_TOKENS = 16
_TOLERANCE = 0.05


class Steady:
    """A figure that is told anew only when it is off by more than a twentieth.

    Whoever keeps what rests on it need not begin again with each step.
    """

    def __init__(self) -> None:
        self._told = 0.0

    def told(self, measured: float) -> float:
        """``measured``, or what was told before where that is as good."""
        if abs(measured - self._told) > _TOLERANCE * abs(self._told):
            self._told = measured
        return self._told


class Pace:
    """Moving averages of the step time and of the prefill rate; the given ones hold until measured.

    A step without prefill gives the decode time; a step with prefill gives tokens over the time that it
    took beyond a decode step. Sums decay, so a few long prefills weigh what they should. No step computes
    more than ``step_token_budget`` tokens (0: unknown), however little longer it takes for them.
    """

    def __init__(self, step_duration_s: float, prefill_tokens_per_s: float, step_token_budget: int = 0) -> None:
        self.step_duration_s = step_duration_s
        self._step_token_budget = step_token_budget or math.inf
        self._assumed_prefill_tokens_per_s = prefill_tokens_per_s
        self._measured_step = False
        self._tokens = 0.0
        self._seconds = 0.0

    @property
    def prefill_tokens_per_s(self) -> float:
        """Prompt tokens that the engine computes in a second."""
        measured = self._tokens / self._seconds if self._seconds > 0 else self._assumed_prefill_tokens_per_s
        return min(measured, self._step_token_budget / self.step_duration_s)

    def observe(self, duration_s: float, prefill_tokens: int) -> None:
        """Take in one step of known duration that computed so many tokens beyond one a request."""
        if prefill_tokens == 0:
            weight = _SMOOTHING if self._measured_step else 1.0
            self.step_duration_s += weight * (duration_s - self.step_duration_s)
            self._measured_step = True
        elif prefill_tokens >= _MIN_PREFILL_TOKENS and self._measured_step:
            # A step is never all overhead: at least a tenth of it is the prefill's, or one noisy short
            # step would say that prefill is free and every preemption would look cheap.
            extra_s = max(duration_s - self.step_duration_s, 0.1 * duration_s)
            self._tokens += prefill_tokens - _SMOOTHING * self._tokens
            self._seconds += extra_s - _SMOOTHING * self._seconds
