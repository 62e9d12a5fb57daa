"""What preemption costs an engine: tokens that it computes again, and those that its prefix cache still has."""

from __future__ import annotations

_MEMORY_TOKENS = 100_000.0
_RESUMED_TOKENS = 20_000.0
_UNSEEN_TOKENS = 1_000.0


class Recompute:
    """Moving shares of the last hundred thousand tokens or so that were computed, and twenty thousand that resumed."""

    def __init__(self) -> None:
        self._computed = 0.0
        self._again = 0.0
        self._resumed = _UNSEEN_TOKENS
        self._found = 0.0

    @property
    def share(self) -> float:
        """Of the tokens computed, how many had been computed before: 0 to 1."""
        return min(self._again / self._computed, 1.0) if self._computed else 0.0

    @property
    def found_share(self) -> float:
        """Of the tokens that preempted requests had, how many were still there when they resumed: 0 until it is seen,
        to 1."""
        return self._found / self._resumed

    def resumed(self, tokens: int, found: int) -> None:
        """Requests with so many tokens came back, and the KV entries of ``found`` of these were still there."""
        fading = max(1 - tokens / _RESUMED_TOKENS, 0.0)
        self._resumed = self._resumed * fading + tokens
        self._found = self._found * fading + found
        self._again += tokens - found

    def computed(self, tokens: int) -> None:
        """The engine computed so many."""
        fading = max(1 - tokens / _MEMORY_TOKENS, 0.0)
        self._computed = self._computed * fading + tokens
        self._again *= fading
