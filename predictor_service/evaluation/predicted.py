"""What was predicted, at which positions of which requests."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictor_service.training.labels import Floats, Ints

Array = NDArray[np.float32]
Names = NDArray[np.str_]


@dataclass(frozen=True)
class Requests:
    """The requests of an evaluation [requests]; lengths in tokens."""

    prompt: Ints  # several requests may share one
    source: Names  # data set
    verb: Names
    length: Ints  # as generated, the end-of-sequence token included
    finished: NDArray[np.bool_]  # False: cut, so `length` is the cap

    def __len__(self) -> int:
        return len(self.length)


@dataclass(frozen=True)
class Predicted:
    """Predictions of remaining length [rows], tokens to come after `age`; requests rise, rows of one are adjacent."""

    request: Ints  # 0..n-1, index into Requests
    age: Ints
    truth: Floats  # of a cut request up to the cap, where the engine stops it
    mean: Floats
    median: Floats
    p10: Floats
    p90: Floats
    q: Array | None = None  # [rows, bins] posterior, where it is known

    def __len__(self) -> int:
        return len(self.age)

    def take(self, rows: Ints) -> "Predicted":
        """The same, of some rows only; requests keep their numbers."""
        return Predicted(
            self.request[rows],
            self.age[rows],
            self.truth[rows],
            self.mean[rows],
            self.median[rows],
            self.p10[rows],
            self.p90[rows],
            None if self.q is None else self.q[rows],
        )


def sample_positions(request: Ints, most: int, seed: int) -> Ints:
    """Rows of up to `most` positions of each request, drawn uniformly without replacement, in rising order.

    ``request`` [rows] names each row's request; rows of a request are adjacent.
    """
    order = np.lexsort((np.random.default_rng(seed).random(len(request)), request))
    first = np.searchsorted(request[order], request[order])
    return np.sort(order[np.arange(len(request)) - first < most])
