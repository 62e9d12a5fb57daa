"""How fast one engine steps and prefills, measured from what it reports."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SMOOTHING = 0.1
_PREFILL_SMOOTHING = 0.01
_FEW = 0.3
_PAUSE_FACTOR = 20.0
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
    """How long a step takes, and what prefill adds to it, by moving averages; the given ones hold until measured.

    A report tells what a step computed, and the time from one step to the next. Where the engine waits for its GPU,
    that time is the step's own. Where it schedules ahead and waits for its CPU, it was launching the *next* step
    meanwhile, and one with prefill is dear to launch, for the engine runs it without its full CUDA graph; and what was
    launched late is then soon done. So a time is taken to be a decode step, and for each of the two steps so much for
    any prefill at all and so much for each token of it, by least squares whose sums decay. What prefill costs is what
    it adds to both.

    No step computes more than ``step_token_budget`` tokens (0: unknown), however little longer it takes for them.
    """

    def __init__(self, step_duration_s: float, prefill_tokens_per_s: float, step_token_budget: int = 0) -> None:
        self.step_duration_s = step_duration_s
        """Of a step without prefill."""
        self._step_token_budget = step_token_budget or math.inf
        self._measured_step = False
        self._before: tuple[float, int] | None = None
        """Seconds and prefill tokens of the last report; None: not known."""
        self._squares, self._products = np.zeros((4, 4)), np.zeros(4)
        """Sums of what may make a time longer: with each other, and with the seconds beyond a decode step."""
        self._effects: NDArray[np.floating[Any]] = np.zeros(4)
        """Seconds for any prefill in the step and for each token of it, and the same for the step after."""
        self._token_s = 1 / prefill_tokens_per_s
        self.prefill_step_s = 0.0
        """What a step with prefill takes beyond a decode step, however little it computes."""

    @property
    def prefill_tokens_per_s(self) -> float:
        """Prompt tokens that the engine computes in a second, beside `prefill_step_s` for each step of it."""
        return min(1 / self._token_s, self._step_token_budget / self.step_duration_s)

    def observe(self, duration_s: float, prefill_tokens: int | None) -> None:
        """Take in what was reported of one step: a time, and how many tokens it computed beyond one a request; None:
        nobody knows. Each call is for the step after that of the call before, which now can be told."""
        before, self._before = self._before, None
        if prefill_tokens is None or 0 < prefill_tokens < _MIN_PREFILL_TOKENS:
            return
        if _STEP_S[0] <= duration_s <= _STEP_S[1]:
            self._before = duration_s, prefill_tokens
        if before is not None:
            self._learn(*before, prefill_tokens)

    def _learn(self, seconds: float, own_tokens: int, next_tokens: int) -> None:
        reasons = np.array([own_tokens > 0, own_tokens, next_tokens > 0, next_tokens], np.float64)
        beyond_s = float(reasons @ self._effects)
        if self._measured_step:
            expected_s = self.step_duration_s + max(beyond_s, self._token_s * own_tokens)
            seconds = min(seconds, _PAUSE_FACTOR * expected_s)
        if not own_tokens:
            decode_s = max(seconds - beyond_s, LEAST_EXTRA * seconds)
            self.step_duration_s += (_SMOOTHING if self._measured_step else 1.0) * (decode_s - self.step_duration_s)
            self._measured_step = True
        if self._measured_step and (own_tokens or next_tokens):
            kept = 1 - _PREFILL_SMOOTHING
            self._squares = kept * self._squares + np.outer(reasons, reasons)
            self._products = kept * self._products + reasons * (seconds - self.step_duration_s)
            self._solve()

    def _solve(self) -> None:
        """Where steps were few, or all had about as much prefill, there is no telling what is due to each token, and
        all of it is taken to be."""
        count = float(self._squares[0, 0])
        if not count:
            return
        tokens = float(self._squares[0, 1] / count)
        doubt = (_LEAST_SHARE * count + _FEW) * np.array([1.0, 1e-9 * tokens**2, 1.0, 0.01 * tokens**2])
        self._effects = np.linalg.solve(self._squares + np.diag(doubt), self._products)
        any_s, token_s, next_any_s, next_token_s = self._effects.tolist()
        extra_s, least_s = any_s + next_any_s + (token_s + next_token_s) * tokens, LEAST_EXTRA * self.step_duration_s
        if extra_s < least_s:
            self._token_s, self.prefill_step_s = least_s / tokens, 0.0
            return
        self._token_s = min(max(token_s + next_token_s, _LEAST_SHARE * extra_s / tokens), extra_s / tokens)
        step_s = extra_s - self._token_s * tokens
        self.prefill_step_s = step_s if step_s > _STEP_S[0] else 0.0
