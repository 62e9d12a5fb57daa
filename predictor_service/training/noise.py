"""What no predictor can know: how much the rest of a response varies when it is drawn again.

The floor at a position: the rest of the response is sampled anew from the same prefix, at the same age. A predictor
that knew the exact distribution would say its median; its place is taken by the median of the other draws, so with few
draws the floor comes out somewhat high for the error and low for the ranking: both on the side of the predictor.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from scipy.stats import kendalltau

from predictor_service.training.collect import Responses, sample_continuations
from predictor_service.training.generation import Sampling
from predictor_service.training.labels import Floats, Ints
from predictor_service.training.prompts import TEST
from predictor_service.training.shards import save_npz


@dataclass(frozen=True)
class Positions:
    """Places in responses from which the rest is drawn again."""

    response: Ints  # [positions] index into Responses
    age: Ints  # [positions]

    @classmethod
    def drawn(cls, responses: Responses, rows: Ints, each: int, seed: int) -> "Positions":
        """Up to ``each`` ages a response, uniform over its decode steps, of the responses ``rows``."""
        rng = np.random.default_rng(seed)
        ages = [np.sort(rng.permutation(int(responses.lengths[row]))[:each]) for row in rows]
        return cls(np.repeat(rows, [len(one) for one in ages]), np.concatenate(ages).astype(np.int64))

    def prefixes(self, responses: Responses) -> list[list[int]]:
        """Prompt and the first ``age`` tokens of each response, ids."""
        sizes = responses.prompt_tokens[self.response] + self.age
        return [responses.sequence(int(row))[:size].tolist() for row, size in zip(self.response, sizes, strict=True)]


def draw_again(
    llm: Path,
    responses: Responses,
    sampling: Sampling,
    positions: int,
    draws: int,
    seed: int,
    out: Path,
    console: Console,
    **engine: Any,
) -> None:
    """Draws the rest of every test prompt's first response from some of its positions, and writes what came.

    The file holds `response`, `age` [positions] and `remaining` [positions, draws] in tokens, up to the cap.
    """
    rows = np.flatnonzero(responses.split == TEST)
    first = rows[np.unique(responses.prompt[rows], return_index=True)[1]]
    at = Positions.drawn(responses, first, positions, seed)
    left = (sampling.max_tokens - at.age).tolist()
    drawn = sample_continuations(
        llm,
        at.prefixes(responses),
        replace(sampling, seed=seed + 1),
        draws,
        caps=left,
        console=console,
        **engine,
    )
    save_npz(out, {"response": at.response, "age": at.age, "remaining": drawn.lengths})


def prompt_floor(responses: Responses, rows: Ints) -> dict[str, Any]:
    """How well other responses to a prompt rank and size one of them, by how many others are asked.

    For responses ``rows`` with as many to each prompt. Kendall's tau-b between one response's length and the mean
    of k others, for k = 1, 2, ...: what a prompt predictor with k draws of perfect foresight would reach.
    """
    _, group = np.unique(responses.prompt[rows], return_inverse=True)
    order = np.argsort(group, kind="stable")
    lengths = responses.lengths[rows][order].reshape(int(group.max()) + 1, -1).astype(np.float64)
    samples = lengths.shape[1]
    taus = {}
    for others in range(1, samples):
        each = [
            kendalltau(np.roll(lengths, -one, axis=1)[:, 1 : 1 + others].mean(axis=1), lengths[:, one]).statistic
            for one in range(samples)
        ]
        taus[others] = float(np.mean(each))
    errors = [np.abs(lengths[:, one] - np.median(np.delete(lengths, one, axis=1), axis=1)) for one in range(samples)]
    return {
        "prompts": len(lengths),
        "draws": samples,
        "kendall_tau_by_others": taus,
        "mae_tokens": float(np.mean(errors)),
    }


def floor(draws: Floats, request: Ints) -> dict[str, Any]:
    """Error and ranking of the median of the other draws, for ``draws`` [positions, samples] of remaining length.

    ``request`` [positions] groups positions; every request counts the same. The ranking is tau-b over requests, one
    position of each, averaged over the draws that stand for the truth.
    """
    samples = draws.shape[1]
    weight = 1 / np.bincount(request)[request]
    first = np.unique(request, return_index=True)[1]
    errors, taus = [], []
    for one in range(samples):
        truth, others = draws[:, one], np.median(np.delete(draws, one, axis=1), axis=1)
        errors.append(np.abs(truth - others))
        taus.append(kendalltau(others[first], truth[first]).statistic)
    return {
        "positions": len(draws),
        "requests": len(first),
        "draws": samples,
        "mae_tokens": float(np.average(np.mean(errors, axis=0), weights=weight)),
        "kendall_tau": float(np.mean(taus)),
    }
