"""One cap for requests that carried caps of their own: training and tuning know a single one."""

import math

import numpy as np
from numpy.typing import NDArray

from predictor_service.training.labels import Ints

# Of requests: beyond what fewer could reach there is too little to learn from.
_LEAST_SHARE = 0.1


def limits(lengths: Ints, cut: NDArray[np.bool_], carried: Ints, default: int) -> Ints:
    """How long each request could have been seen [requests], tokens.

    A cut one to where it was cut; any other to the cap that it ``carried`` (0: none, so ``default``). A client that
    names no cap gets all that the model's context has left: nothing is known beyond the longest response.
    """
    reached = np.where(carried > 0, np.minimum(carried, lengths.max()), default)
    return np.where(cut, lengths, reached)


def shared_cap(limits: Ints) -> int:
    """The largest cap, tokens, that at least a tenth of the requests could have reached."""
    enough = math.ceil(_LEAST_SHARE * len(limits))
    return int(np.sort(limits)[-enough])
