"""r0: the length that a prompt's tokens promise, before any forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from predictor_service.bins import Array
from predictor_service.classifier import Graph


@dataclass(frozen=True)
class Prompt:
    token_ids: npt.NDArray[np.uint32]
    tokens: int


def features(prompts: Sequence[Prompt], buckets: int) -> npt.NDArray[np.float32]:
    """[N, buckets + 1]: log1p of how many token ids fall into each bucket (id modulo buckets), and
    the log of the prompt's length."""
    matrix = np.zeros((len(prompts), buckets + 1), dtype=np.float32)
    for row, prompt in zip(matrix, prompts, strict=True):
        row[:buckets] = np.log1p(np.bincount(prompt.token_ids % buckets, minlength=buckets))
        row[buckets] = np.log(max(prompt.tokens, 1))
    return matrix


class PromptPredictor:
    """Distribution of the total output length."""

    def __init__(self, graph: Graph, buckets: int) -> None:
        self._graph = graph
        self._buckets = buckets

    def __call__(self, prompts: Sequence[Prompt]) -> Array:
        """Probabilities [N, bins] of total output tokens."""
        return self._graph.run(features=features(prompts, self._buckets))
