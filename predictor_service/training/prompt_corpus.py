"""All prompts that prompt predictors are fitted on, as each body reads them, and how long the responses were."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from predictor_service.prompt import Prompt
from predictor_service.prompt_sequence import Frame
from predictor_service.training.collect import TEST, TRAIN, VALIDATION, Responses
from predictor_service.training.labels import Ints
from predictor_service.training.prompt_bodies import Bodies
from predictor_service.training.prompt_data import Features, Lengths, Prompts, Read, common_frame
from predictor_service.training.prompt_losses import expected_ranks
from predictor_service.training.prompt_train import Task, outputs

# Beside the splits of the responses: the training prompts, then those that nobody answered.
TAUGHT = 3


class Corpus:
    """Prompts by split, on the device that trains. What a body reads of a split is kept."""

    def __init__(
        self, responses: Responses, texts: Sequence[str], llm: Path, encoder: Path | None, device: torch.device
    ) -> None:
        self.responses = responses
        self.device = device
        self.rows = {split: np.flatnonzero(responses.split == split) for split in (TRAIN, VALIDATION, TEST)}
        self.prompts = {split: Prompts.of(responses, rows) for split, rows in self.rows.items()}
        frame = common_frame(self.prompts[TRAIN].prompts)
        self.prompts[TAUGHT] = self.prompts[TRAIN].with_unanswered(unanswered(texts, responses, llm, frame))
        self.bodies = Bodies(llm, encoder, frame)
        self.read = cache(self._read)

    @property
    def max_tokens(self) -> int:
        """The longest response, tokens."""
        return int(self.responses.lengths.max())

    def task(self, body: str, split: int, edges: Ints, teacher: Tensor | None = None) -> Task:
        """What a network over bins with these edges learns from a split."""
        lengths = Lengths.of(self.prompts[split], edges, self.device)
        return Task(self.read(body, split), lengths, expected_ranks(lengths), teacher)

    def judge(self, body: str, edges: Ints, rank: Tensor) -> Task:
        """What it is judged by, with the ranks of what it learns from."""
        return Task(self.read(body, VALIDATION), Lengths.of(self.prompts[VALIDATION], edges, self.device), rank)

    def _read(self, body: str, split: int) -> Read:
        if split == TAUGHT and len(self.prompts[TAUGHT].prompts) == len(self.prompts[TRAIN].prompts):
            return self.read(body, TRAIN)
        read = Read.of(self.prompts[split].prompts, self.bodies.reader(body), self.device)
        if body != "llm":
            return read
        return Features.seen(read, outputs(self.bodies.llm_body.to(self.device), read))


def unanswered(texts: Sequence[str], responses: Responses, llm: Path, frame: Frame) -> list[Prompt]:
    """The prompts among ``texts`` that have no response and are no copy of one that has, in the LLM's own ids."""
    from tokenizers import Tokenizer

    asked = set(responses.prompt.tolist())
    answered = {texts[i] for i in asked}
    spare = [text for i, text in enumerate(texts) if i not in asked and text not in answered]
    encoded = Tokenizer.from_file(str(llm / "tokenizer.json")).encode_batch(spare, add_special_tokens=False)
    rows = [np.concatenate([frame.prefix, np.array(one.ids, dtype=np.uint32), frame.suffix]) for one in encoded]
    return [Prompt(row, len(row)) for row in rows]
