"""Prompts as a prompt network learns from them: what it reads, and the lengths of the responses that were drawn."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from predictor_service.prompt import Ids, Prompt
from predictor_service.prompt_sequence import Frame, TextIds, TokenIds, padded
from predictor_service.training.collect import Responses
from predictor_service.training.labels import Floats, Ints, label

SORTED_TOGETHER = 16  # batches whose prompts are sorted by length before they are cut, so that padding is rare


@dataclass(frozen=True)
class Prompts:
    """The distinct prompts of some responses, and how long those were."""

    prompts: list[Prompt]
    lengths: Floats  # [prompts, samples] tokens, NaN where a prompt has fewer samples
    finished: NDArray[np.bool_]  # [prompts, samples] False: cut at max_tokens
    of_response: Ints  # [responses] which prompt each response answers

    @classmethod
    def of(cls, responses: Responses, rows: Ints) -> "Prompts":
        """Those of the responses `rows`."""
        _, first, row_of = np.unique(responses.prompt[rows], return_index=True, return_inverse=True)
        count = np.bincount(row_of)
        order = np.argsort(row_of, kind="stable")
        sample = np.empty(len(rows), dtype=np.int64)
        sample[order] = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
        lengths = np.full((len(first), int(count.max())), np.nan)
        finished = np.zeros(lengths.shape, dtype=np.bool_)
        lengths[row_of, sample] = responses.lengths[rows]
        finished[row_of, sample] = responses.finished[rows]
        return cls([prompt_of(responses, int(row)) for row in rows[first]], lengths, finished, row_of)

    def with_unanswered(self, prompts: Sequence[Prompt]) -> "Prompts":
        """The same, then prompts without any response."""
        none = np.full((len(prompts), self.lengths.shape[1]), np.nan)
        return Prompts(
            [*self.prompts, *prompts],
            np.concatenate([self.lengths, none]),
            np.concatenate([self.finished, np.zeros(none.shape, dtype=np.bool_)]),
            self.of_response,
        )


def prompt_of(responses: Responses, row: int) -> Prompt:
    ids = responses.sequence(row)[: responses.prompt_tokens[row]].astype(np.uint32)
    return Prompt(ids, len(ids))


def common_frame(prompts: Sequence[Prompt]) -> Frame:
    """The ids that every prompt begins and ends with: the chat template around the user's words."""
    shortest = min(len(prompt.token_ids) for prompt in prompts)
    heads = np.stack([prompt.token_ids[:shortest] for prompt in prompts])
    tails = np.stack([prompt.token_ids[len(prompt.token_ids) - shortest :] for prompt in prompts])
    prefix = int((heads == heads[0]).all(axis=0).cumprod().sum())
    suffix = int((tails == tails[0]).all(axis=0)[::-1].cumprod().sum())
    suffix = min(suffix, shortest - prefix)
    ids: Ids = prompts[0].token_ids
    return Frame(ids[:prefix], ids[len(ids) - suffix :])


@dataclass(frozen=True)
class Lengths:
    """What is known of each prompt's lengths over some classes, on the device that trains."""

    ended: Tensor  # [prompts, classes] share of the samples that ended in each class
    cut: Tensor  # [prompts, classes] share of the samples that were cut in each class: they lie there or above
    tokens: Tensor  # [prompts, samples], NaN where there are fewer

    @classmethod
    def of(cls, prompts: Prompts, edges: Ints, device: torch.device) -> "Lengths":
        known = ~np.isnan(prompts.lengths)
        classes = label(np.where(known, prompts.lengths, 0).astype(np.int64), edges)
        share = known / np.maximum(known.sum(axis=1, keepdims=True), 1)
        ended, cut = (np.zeros((len(classes), len(edges)), dtype=np.float32) for _ in range(2))
        rows = np.broadcast_to(np.arange(len(classes))[:, None], classes.shape)
        np.add.at(ended, (rows, classes), share * prompts.finished)
        np.add.at(cut, (rows, classes), share * ~prompts.finished)
        tensors = (torch.from_numpy(each).to(device) for each in (ended, cut, prompts.lengths.astype(np.float32)))
        return cls(*tensors)

    def __getitem__(self, at: Tensor) -> "Lengths":
        return Lengths(self.ended[at], self.cut[at], self.tokens[at])


@dataclass(frozen=True)
class Read:
    """Encoded prompts on the device that trains, each as the service would read it."""

    ids: Tensor  # int32 [prompts, longest], padded
    tokens: Tensor  # float32 [prompts] length of the whole prompt
    sizes: Ints  # [prompts] ids that are no padding, on the host
    unknown: int  # the id that stands for any other

    @classmethod
    def of(cls, prompts: Sequence[Prompt], encode: TokenIds | TextIds, device: torch.device) -> "Read":
        rows = [encode(prompt) for prompt in prompts]
        tokens = np.array([prompt.tokens for prompt in prompts], dtype=np.float32)
        return cls(
            torch.from_numpy(padded(rows)).to(device),
            torch.from_numpy(tokens).to(device),
            np.array([len(row) for row in rows]),
            encode.unknown,
        )

    def __len__(self) -> int:
        return len(self.sizes)

    def take(self, at: Ints) -> "Read":
        where = torch.from_numpy(at).to(self.ids.device)
        return replace(self, ids=self.ids[where], tokens=self.tokens[where], sizes=self.sizes[at])

    def batch(self, at: Ints) -> tuple[Tensor, Tensor]:
        """Ids [n, longest of these] and prompt lengths [n]."""
        where = torch.from_numpy(at).to(self.ids.device)
        return self.ids[where, : int(self.sizes[at].max())], self.tokens[where]

    def shuffled(self, size: int, rng: np.random.Generator) -> Iterator[Ints]:
        """Every prompt once, in batches of `size` of similar length, in random order."""
        order = rng.permutation(len(self))
        pools = np.split(order, range(size * SORTED_TOGETHER, len(order), size * SORTED_TOGETHER))
        batches = [part for pool in pools for part in _cut(pool[np.argsort(self.sizes[pool], kind="stable")], size)]
        for i in rng.permutation(len(batches)):
            yield batches[i]


@dataclass(frozen=True)
class Features(Read):
    """Prompts as a body that does not learn has read them: `ids` are its features [prompts, features]."""

    @classmethod
    def seen(cls, read: Read, features: Tensor) -> "Features":
        return cls(features, read.tokens, np.ones(len(read), dtype=np.int64), read.unknown)

    def batch(self, at: Ints) -> tuple[Tensor, Tensor]:
        where = torch.from_numpy(at).to(self.ids.device)
        return self.ids[where], self.tokens[where]


def _cut(order: Ints, size: int) -> list[Ints]:
    return np.split(order, range(size, len(order), size))
