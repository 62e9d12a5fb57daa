"""How fast one engine steps and prefills, measured from what it reports."""

from __future__ import annotations

import math

_SMOOTHING = 0.1
_MIXED_SMOOTHING = 0.02
_LEAST_SHARE = 0.01
_MIN_PREFILL_TOKENS = 16
_TOLERANCE = 0.05
LEAST_EXTRA = 0.1
"""Of a step with prefill, what is its prefill's at least: a step is never all overhead, and one noisy short step would
say that prefill is free and every preemption would look cheap."""
_STEP_S = 1e-6, 3600.0
"""What an engine's step may take; whatever is told beyond tells nothing."""


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
    """Moving averages of the step time and of what prefill adds to it; the given ones hold until measured.

    A step without prefill gives the decode time. What a step with prefill took beyond that is a line, by least squares
    whose sums decay: so much for any prefill at all (an engine then runs the step without its full CUDA graph), and so
    much for each token. No step computes more than ``step_token_budget`` tokens (0: unknown), however little longer it
    takes for them.
    """

    def __init__(self, step_duration_s: float, prefill_tokens_per_s: float, step_token_budget: int = 0) -> None:
        self.step_duration_s = step_duration_s
        self._step_token_budget = step_token_budget or math.inf
        self._measured_step = False
        self._sums = [0.0] * 5
        """Of steps with prefill, decayed: how many, tokens, seconds, tokens squared, tokens times seconds."""
        self._token_s = 1 / prefill_tokens_per_s
        self.prefill_step_s = 0.0
        """What a step with prefill takes beyond a decode step, however little it computes."""

    @property
    def prefill_tokens_per_s(self) -> float:
        """Prompt tokens that the engine computes in a second, beside `prefill_step_s` for each step of it."""
        return min(1 / self._token_s, self._step_token_budget / self.step_duration_s)

    def observe(self, duration_s: float, prefill_tokens: int) -> None:
        """Take in one step of known duration that computed so many tokens beyond one a request."""
        if not _STEP_S[0] <= duration_s <= _STEP_S[1]:
            return
        if prefill_tokens == 0:
            weight = _SMOOTHING if self._measured_step else 1.0
            self.step_duration_s += weight * (duration_s - self.step_duration_s)
            self._measured_step = True
        elif prefill_tokens >= _MIN_PREFILL_TOKENS and self._measured_step:
            extra_s = max(duration_s - self.step_duration_s, LEAST_EXTRA * duration_s)
            self._fit(float(prefill_tokens), extra_s)

    def _fit(self, tokens: float, extra_s: float) -> None:
        """The line through what was seen lately. Where steps were few, or all had about as much prefill, there is no
        telling what is due to each token, and all of it is taken to be."""
        new = (1.0, tokens, extra_s, tokens * tokens, tokens * extra_s)
        self._sums = [(1 - _MIXED_SMOOTHING) * old + more for old, more in zip(self._sums, new, strict=True)]
        count, *sums = self._sums
        mean_tokens, mean_s, squares, products = (each / count for each in sums)
        by_share_s, doubt = mean_s / mean_tokens, (_LEAST_SHARE + 0.3 / count) * mean_tokens**2
        slope_s = (products - mean_tokens * mean_s + doubt * by_share_s) / (squares - mean_tokens**2 + doubt)
        self._token_s = min(max(slope_s, _LEAST_SHARE * by_share_s), by_share_s)
        self.prefill_step_s = max(mean_s - self._token_s * mean_tokens, 0.0)
