"""The epochs that an agent mints, and the step numbers inside them."""

import secrets

from trail.v1 import engine_pb2


class EpochMint:
    """Mints epochs: one random incarnation for a life of the engine, a counter that rises with each stream."""

    def __init__(self) -> None:
        self._counter = 0
        self._incarnation = _random_incarnation()

    @property
    def incarnation(self) -> int:
        return self._incarnation

    def renew(self) -> None:
        """Starts another incarnation: every handle and epoch so far means nothing any more."""
        self._incarnation, self._counter = _random_incarnation(), 0

    def next(self) -> engine_pb2.Epoch:
        """The epoch of a stream that is about to be opened."""
        self._counter += 1
        return engine_pb2.Epoch(incarnation=self._incarnation, counter=self._counter)


class StepNumbers:
    """Numbers messages so that each is above the last, and is the engine's step where that allows it.

    Several messages may fall into one step (arrivals between two steps), so the engine's number alone
    would make the second one a repeat.
    """

    def __init__(self) -> None:
        self._last = 0

    def next(self, engine_step: int) -> int:
        self._last = max(self._last + 1, engine_step)
        return self._last


def _random_incarnation() -> int:
    return secrets.randbits(64) or 1
