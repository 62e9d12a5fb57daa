"""How much of what an engine computes it had computed before: what preemption costs it."""

from __future__ import annotations

_MEMORY_TOKENS = 100_000.0


class RecomputeShare:
    """Lost KV entries over computed tokens, of the last hundred thousand tokens or so.

    Entries count as lost when their request is preempted; what the prefix cache gives back makes it an upper bound.
    """

    def __init__(self) -> None:
        self._computed = 0.0
        self._lost = 0.0

    @property
    def share(self) -> float:
        """0 to 1."""
        return min(self._lost / self._computed, 1.0) if self._computed else 0.0

    def lost(self, tokens: int) -> None:
        """So many KV entries were discarded."""
        self._lost += tokens

    def computed(self, tokens: int) -> None:
        """The engine computed so many."""
        fading = max(1 - tokens / _MEMORY_TOKENS, 0.0)
        self._computed = self._computed * fading + tokens
        self._lost *= fading
