"""What the served LLM computes on the way: hidden states read with transformers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from predictor_service.training.collect import Responses
from predictor_service.training.labels import Ints, sample_ages


@dataclass(frozen=True)
class States:
    """Hidden states of one split: one row per (response, age)."""

    hidden: NDArray[np.float16]  # [rows, layers * hidden_size], layers concatenated in their given order
    age: Ints  # [rows] 0: the last prompt token, a: the a-th generated token
    response: Ints  # [rows] index into Responses
    lengths: Ints  # [rows] length of that response
    finished: NDArray[np.bool_]  # [rows]

    @property
    def remaining(self) -> Ints:
        """Tokens still to come [rows]; of a cut response, a lower bound."""
        return self.lengths - self.age


def read_states(
    llm: Path, responses: Responses, split: int, layers: Sequence[int], ages_per_response: int | None, seed: int
) -> States:
    """Runs ``llm`` over each response of ``split`` once and keeps ``hidden_states[L]``, L in ``layers``.

    ``ages_per_response`` None keeps every age, as a stream in service sees them.
    """
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(responses.split == split)
    length = responses.lengths
    ages = {
        int(r): np.arange(length[r]) if ages_per_response is None else sample_ages(length[r], ages_per_response, rng)
        for r in rows
    }
    by_size = sorted(ages, key=lambda r: int(responses.offsets[r + 1] - responses.offsets[r]))
    hidden = dict(_hidden_rows(llm, responses, by_size, ages, layers))
    age = np.concatenate([ages[r] for r in by_size])
    response = np.concatenate([np.full(len(ages[r]), r) for r in by_size])
    return States(
        np.concatenate([hidden[r] for r in by_size]), age, response, length[response], responses.finished[response]
    )


def _hidden_rows(
    llm: Path, responses: Responses, order: list[int], ages: dict[int, Ints], layers: Sequence[int]
) -> Iterator[tuple[int, NDArray[np.float16]]]:
    import torch
    from transformers import AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(str(llm), dtype=torch.bfloat16).to(device).eval()
    for batch in _batches(responses, order, tokens=32_768 if device == "cuda" else 2048):
        sequences = [torch.from_numpy(responses.sequence(r)).long() for r in batch]
        # Padding on the right needs no mask: attention is causal, and no padded position is read.
        padded = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True).to(device)
        with torch.inference_mode():
            states = model.model(padded, output_hidden_states=True, use_cache=False).hidden_states
        for i, r in enumerate(batch):
            at = torch.from_numpy(responses.prompt_tokens[r] - 1 + ages[r]).to(device)
            row = torch.cat([states[layer][i, at] for layer in layers], dim=1).float().clamp(-65504, 65504)
            yield r, row.half().cpu().numpy()


def _batches(responses: Responses, order: list[int], tokens: int) -> Iterator[list[int]]:
    batch: list[int] = []
    for r in order:  # rising size: the newest is the longest
        size = int(responses.offsets[r + 1] - responses.offsets[r])
        if batch and size * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(r)
    if batch:
        yield batch
