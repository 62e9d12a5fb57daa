"""The shuffled pairing's exchange: each request gets the total that another request was predicted."""

from __future__ import annotations

from collections import deque

_MASK = (1 << 64) - 1
SEED = 0x7261696C


def mix(value: int) -> int:
    """64 well-mixed bits of a 64-bit value (the splitmix64 finaliser)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


class Lender:
    """Hands each request one of the totals predicted before it, fixed for its life.

    Which one is drawn by the request's handle and the seed: the same log gives the same exchange, lengths
    keep their distribution, and nothing about the request itself is left in what it gets.
    """

    def __init__(self, seed: int = SEED, memory: int = 256) -> None:
        self._seed = seed
        self._totals: deque[tuple[int, float]] = deque(maxlen=memory)
        self._lenders: set[int] = set()

    def exchange(self, handle: int, total: float) -> float:
        """Take in a request's own total and return another's; 0.0 while there is no other."""
        others = len(self._totals)
        drawn = mix(handle ^ self._seed) % others if others else 0
        # A request that found nobody before asks again, and must not be lent its own total.
        picks = (self._totals[(drawn + offset) % others] for offset in range(min(others, 2)))
        borrowed = next((value for lender, value in picks if lender != handle), 0.0)
        if handle not in self._lenders:
            if others == self._totals.maxlen:
                self._lenders.discard(self._totals[0][0])
            self._totals.append((handle, total))
            self._lenders.add(handle)
        return borrowed
