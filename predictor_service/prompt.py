"""r0: the length that a prompt promises, before any forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from predictor_service.bins import Array
from predictor_service.classifier import Graph

Ids = npt.NDArray[np.uint32]
MOST_COUNTED_IDS = 8192


@dataclass(frozen=True)
class Prompt:
    token_ids: Ids
    tokens: int


class PromptPredictor(Protocol):
    """Distribution of the total output length. What it costs is bounded, however long a prompt is."""

    def __call__(self, prompts: Sequence[Prompt]) -> Array:
        """Probabilities [N, bins] of total output tokens."""


class Counts:
    """The prompt kind `counts`: which token ids there are, whatever their order."""

    def __init__(self, graph: Graph, buckets: int) -> None:
        self._graph = graph
        self._buckets = buckets

    def __call__(self, prompts: Sequence[Prompt]) -> Array:
        return self._graph.run(features=features(prompts, self._buckets))


def features(prompts: Sequence[Prompt], buckets: int) -> npt.NDArray[np.float32]:
    """[N, buckets + 1]: log1p of how many token ids fall into each bucket (id modulo buckets), and
    the log of the prompt's length. Of a longer prompt MOST_COUNTED_IDS ids count."""
    matrix = np.zeros((len(prompts), buckets + 1), dtype=np.float32)
    for row, prompt in zip(matrix, prompts, strict=True):
        ids = excerpt(prompt.token_ids, MOST_COUNTED_IDS)
        row[:buckets] = np.log1p(np.bincount(ids % buckets, minlength=buckets))
        row[buckets] = np.log(max(prompt.tokens, 1))
    return matrix


def excerpt(ids: Ids, most: int) -> Ids:
    """At most `most` ids: the first three quarters of them from the start, the rest from the end.

    Prompts say what they want at the start or, after a long text, at the end.
    """
    if len(ids) <= most:
        return ids
    tail = most // 4
    return np.concatenate([ids[: most - tail], ids[len(ids) - tail :]])
