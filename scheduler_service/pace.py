"""How fast one engine steps and prefills, measured from what it reports."""

from __future__ import annotations

import math
from dataclasses import dataclass

_SMOOTHING = 0.1
_STRETCH_SMOOTHING = 0.01
_LONGEST_STRETCH = 8
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


@dataclass(slots=True)
class _Stretch:
    """Consecutive steps that had prefill, or the step after them had."""

    steps: int = 0
    seconds: float = 0.0
    prefill_steps: int = 0
    prefill_tokens: int = 0


class Pace:
    """Moving averages of the step time and of what prefill adds to it; the given ones hold until measured.

    A report tells what a step computed, and the time from one step to the next. Where the engine waits for its GPU,
    that time is the step's own. Where it schedules ahead and waits for its CPU, it was launching the *next* step
    meanwhile, and one without its full CUDA graph is dear to launch; and what was launched late is then soon done. So
    what prefill costs is what a whole stretch took beyond as many decode steps: all steps that had prefill, and those
    before them. It is a line, by least squares whose sums decay: so much for each step with any prefill (an engine then
    runs it without its full CUDA graph), and so much for each token.

    No step computes more than ``step_token_budget`` tokens (0: unknown), however little longer it takes for them.
    """

    def __init__(self, step_duration_s: float, prefill_tokens_per_s: float, step_token_budget: int = 0) -> None:
        self.step_duration_s = step_duration_s
        """Of a step without prefill."""
        self._step_token_budget = step_token_budget or math.inf
        self._measured_step = False
        self._before: tuple[float, int] | None = None
        """Seconds and prefill tokens of the last report; None: not known."""
        self._stretch: _Stretch | None = None
        """The one that goes on; None: nobody knows how it began."""
        self._sums = [0.0] * 5
        """Of steps with prefill, decayed: how many, tokens, seconds, tokens squared, tokens times seconds."""
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
        if prefill_tokens is not None and _STEP_S[0] <= duration_s <= _STEP_S[1]:
            self._before = duration_s, prefill_tokens
        if before is None or prefill_tokens is None:
            self._stretch = None
            return
        seconds, tokens = before
        stretch = self._stretch
        if tokens == prefill_tokens == 0:
            self._end(stretch)
            self._stretch = _Stretch()
            weight = _SMOOTHING if self._measured_step else 1.0
            self.step_duration_s += weight * (seconds - self.step_duration_s)
            self._measured_step = True
        elif stretch is not None:
            stretch.steps += 1
            stretch.seconds += seconds
            stretch.prefill_steps += tokens > 0
            stretch.prefill_tokens += tokens
            if stretch.steps >= _LONGEST_STRETCH:
                self._end(stretch)
                self._stretch = _Stretch()

    def _end(self, stretch: _Stretch | None) -> None:
        count = stretch.prefill_steps if stretch is not None else 0
        if stretch is not None and count and stretch.prefill_tokens >= _MIN_PREFILL_TOKENS * count:
            least_s = LEAST_EXTRA * count * stretch.seconds / stretch.steps
            extra_s = max(stretch.seconds - stretch.steps * self.step_duration_s, least_s)
            self._fit(count, stretch.prefill_tokens / count, extra_s / count)

    def _fit(self, count: int, tokens: float, extra_s: float) -> None:
        """The line through what was seen lately; the newest are ``count`` steps, of so many tokens each. Where steps
        were few, or all had about as much prefill, there is no telling what is due to each token, and all of it is
        taken to be."""
        new = (1.0, tokens, extra_s, tokens * tokens, tokens * extra_s)
        kept = (1 - _STRETCH_SMOOTHING) ** count
        self._sums = [kept * old + count * more for old, more in zip(self._sums, new, strict=True)]
        total, *sums = self._sums
        mean_tokens, mean_s, squares, products = (each / total for each in sums)
        by_share_s, doubt = mean_s / mean_tokens, (_LEAST_SHARE + 0.3 / total) * mean_tokens**2
        slope_s = (products - mean_tokens * mean_s + doubt * by_share_s) / (squares - mean_tokens**2 + doubt)
        self._token_s = min(max(slope_s, _LEAST_SHARE * by_share_s), by_share_s)
        self.prefill_step_s = max(mean_s - self._token_s * mean_tokens, 0.0)
