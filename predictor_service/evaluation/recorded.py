"""What an engine would ship of responses that are over, and the steps in which it would."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from predictor_service.training.collect import Responses
from predictor_service.training.labels import Floats, Ints
from predictor_service.training.states import States


@dataclass(frozen=True)
class Recorded:
    """Hidden states of requests 0..n-1 at every age from 0 on, requests end to end."""

    hidden: NDArray[np.float16]  # [rows, dim]
    age: Ints  # [rows]
    prompts: Sequence[NDArray[np.int32]]  # [requests] token ids
    max_tokens: int

    @classmethod
    def of(cls, states: States, responses: Responses, max_tokens: int) -> "Recorded":
        """From the states of whole responses. Raises ValueError where an age is missing."""
        start = np.flatnonzero(states.age == 0)
        if len(start) == 0 or not np.array_equal(states.age, _counted(states.lengths[start])):
            raise ValueError("states: a replay needs every age of each response, in order")
        response = states.response[start]
        prompts = [responses.sequence(r)[: responses.prompt_tokens[r]] for r in response]
        return cls(states.hidden, states.age, prompts, max_tokens)

    @cached_property
    def start(self) -> Ints:
        """The row of age 0 of each request [requests]."""
        return np.flatnonzero(self.age == 0)

    @cached_property
    def lengths(self) -> Ints:
        """Tokens generated [requests]."""
        return np.diff(np.append(self.start, len(self.age)))

    @cached_property
    def request(self) -> Ints:
        """Number of each row's request [rows]."""
        return np.repeat(np.arange(len(self.prompts)), self.lengths)

    @cached_property
    def remaining(self) -> Floats:
        """Tokens that came after each row [rows]."""
        return (self.lengths[self.request] - self.age).astype(np.float64)


@dataclass(frozen=True)
class Turn:
    """One step of the engine, by request numbers: who arrives, who ships a row at which age, who has left."""

    joined: Ints
    shipped: Ints
    ages: Ints  # of `shipped`; 0: the prompt was read in this step
    left: Ints


def turns(lengths: Ints, slots: int) -> Iterator[Turn]:
    """The steps of an engine that runs up to ``slots`` of the requests at once, in their order, a token a step.

    A request arrives one step before its first row, so that it is predicted from its prompt alone too, and has left in
    the step after its last.
    """
    age = np.zeros(len(lengths), dtype=np.int64)
    living, joined = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    waiting = 0
    while True:
        living = np.concatenate([living, joined])
        over = age[living] >= lengths[living]
        left, living = living[over], living[~over]
        joined = np.arange(waiting, min(len(lengths), waiting + slots - len(living)))
        waiting += len(joined)
        if len(living) + len(joined) + len(left) == 0:
            return
        yield Turn(joined, living, age[living], left)
        age[living] += 1


def _counted(lengths: Ints) -> Ints:
    """0..l-1 for each length l, end to end."""
    ends = np.cumsum(lengths)
    return np.asarray(np.arange(ends[-1]) - np.repeat(ends - lengths, lengths))
