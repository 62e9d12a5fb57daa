"""When those that a full service refuses may ask again: one after the other, however many they are."""

import time

from sidecar.errors import LONGEST_PUSHBACK_S

_SOONEST_S = 1.0
_BETWEEN_S = 0.04


class Turns:
    """Gives each its turn, 40 ms after that of the one before: a thousand that all came again after a second would
    leave no time for those that are served."""

    def __init__(self) -> None:
        self._last_s = 0.0

    def next_ms(self, now_s: float | None = None) -> int:
        """Milliseconds from now until the turn of the next one; between a second and a minute."""
        now_s = time.monotonic() if now_s is None else now_s
        turn_s = max(self._last_s + _BETWEEN_S, now_s + _SOONEST_S)
        self._last_s = min(turn_s, now_s + LONGEST_PUSHBACK_S)
        return round((self._last_s - now_s) * 1000)
