"""Fits the prompt predictor: total length from the prompt's token counts alone."""

import numpy as np
import torch
from numpy.typing import NDArray

from predictor_service.prompt import Prompt, features
from predictor_service.training.collect import TRAIN, VALIDATION, Responses
from predictor_service.training.labels import Ints, label
from predictor_service.training.networks import Dense, Network, Recipe, Rows, possible_bins, train


def fit_prompt(responses: Responses, edges: Ints, buckets: int, recipe: Recipe) -> tuple[Dense, list[float]]:
    """The network and its validation losses (nats); every training response is a row of its own."""
    torch.manual_seed(recipe.seed)
    neutral = torch.zeros(buckets + 1), torch.ones(buckets + 1)
    network = Network(*neutral, len(edges), recipe)
    rows, held_out = (_rows(responses, split, edges, buckets) for split in (TRAIN, VALIDATION))
    losses = train(network, rows, held_out, recipe)
    return network.dense(), losses


def prompt_features(responses: Responses, rows: Ints, buckets: int) -> NDArray[np.float32]:
    """What the prompt predictor reads of each response's prompt [rows, buckets + 1]."""
    tokens = [responses.sequence(r)[: responses.prompt_tokens[r]].astype(np.uint32) for r in rows]
    return features([Prompt(ids, len(ids)) for ids in tokens], buckets)


def _rows(responses: Responses, split: int, edges: Ints, buckets: int) -> Rows:
    chosen = np.flatnonzero(responses.split == split)
    _, first, row_of = np.unique(responses.prompt[chosen], return_index=True, return_inverse=True)
    read, index = torch.from_numpy(prompt_features(responses, chosen[first], buckets)), torch.from_numpy(row_of)
    bins = torch.from_numpy(label(responses.lengths[chosen], edges))
    possible = possible_bins(bins, torch.from_numpy(responses.finished[chosen]), len(edges))
    return Rows(lambda at: read[index[at]], possible)
