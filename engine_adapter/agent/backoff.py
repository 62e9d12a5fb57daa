"""How long to wait before the next try."""

import random


class Backoff:
    """Doubles from ``initial_s`` to ``max_s``; each wait is 50 to 100 % of that, so that many do not try at once."""

    def __init__(self, initial_s: float, max_s: float) -> None:
        self._initial_s, self._max_s = initial_s, max_s
        self._wait_s = initial_s

    def next_s(self) -> float:
        """Seconds to wait now."""
        wait_s = min(self._wait_s, self._max_s)
        self._wait_s = min(2 * wait_s, self._max_s)
        return wait_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret

    def reset(self) -> None:
        """The last try worked."""
        self._wait_s = self._initial_s
