"""What the served LLM really answers: responses sampled with vLLM."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictor_service.training.labels import Ints

TRAIN, VALIDATION, TEST = 0, 1, 2


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn; ``seed`` also splits the prompts."""

    temperature: float = 0.7
    top_p: float = 0.95
    max_tokens: int = 1024
    samples: int = 3
    seed: int = 0


@dataclass(frozen=True)
class Responses:
    """Responses of all prompts, flat: row i is tokens[offsets[i] : offsets[i + 1]], the prompt first."""

    prompt: Ints  # [responses] index into the prompt file
    split: Ints  # [responses] TRAIN, VALIDATION or TEST
    seed: Ints  # [responses]
    prompt_tokens: Ints  # [responses]
    finished: NDArray[np.bool_]  # [responses] False: cut at max_tokens
    tokens: NDArray[np.int32]
    offsets: Ints  # [responses + 1]

    @property
    def lengths(self) -> Ints:
        """Tokens generated, the end-of-sequence token included, as vLLM counts them [responses]."""
        return np.diff(self.offsets) - self.prompt_tokens

    def sequence(self, row: int) -> NDArray[np.int32]:
        """Prompt and response token ids of one response."""
        return self.tokens[self.offsets[row] : self.offsets[row + 1]]

    def save(self, path: Path) -> None:
        np.savez_compressed(path, **vars(self))

    @classmethod
    def load(cls, path: Path) -> "Responses":
        with np.load(path) as stored:
            return cls(**{name: stored[name] for name in stored.files})


def read_prompts(path: Path) -> list[str]:
    """Reads a JSON list of objects with ``instruction`` and, maybe empty, ``input``."""
    rows = json.loads(path.read_text())
    return ["\n\n".join(part for part in (row["instruction"], row.get("input", "")) if part) for row in rows]


def chat_token_ids(llm: Path, prompts: Sequence[str]) -> list[list[int]]:
    """Each prompt as one user turn through the LLM's chat template, ready for the answer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(llm))
    texts = [
        tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
        for prompt in prompts
    ]
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return ids


def split_prompts(count: int, validation: int, test: int, seed: int) -> Ints:
    """TRAIN, VALIDATION or TEST for each prompt [count]: no prompt is in two splits."""
    if validation + test >= count:
        raise ValueError(f"prompts: {count} leave none to train on beside {validation} + {test} held out")
    split = np.full(count, TRAIN, dtype=np.int64)
    order = np.random.default_rng(seed).permutation(count)
    split[order[:validation]] = VALIDATION
    split[order[validation : validation + test]] = TEST
    return split


def sample_responses(llm: Path, prompts: list[list[int]], split: Ints, sampling: Sampling, **engine: Any) -> Responses:
    """Lets vLLM answer: ``sampling.samples`` answers to a training prompt, one to a held-out one.

    Each answer has a seed of its own, so it can be drawn again.
    """
    from vllm import LLM, SamplingParams

    drawn = [(p, s) for p in range(len(prompts)) for s in range(sampling.samples if split[p] == TRAIN else 1)]
    seeds = [sampling.seed + 1000 * p + s for p, s in drawn]
    parameters = [
        SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_tokens,
            seed=seed,
            detokenize=False,
        )
        for seed in seeds
    ]
    served = LLM(model=str(llm), seed=sampling.seed, disable_log_stats=True, **engine)
    answers = served.generate([{"prompt_token_ids": prompts[p]} for p, _ in drawn], parameters)
    rows = [[*prompts[p], *answer.outputs[0].token_ids] for (p, _), answer in zip(drawn, answers, strict=True)]
    asked = np.array([p for p, _ in drawn])
    return Responses(
        prompt=asked,
        split=split[asked],
        seed=np.array(seeds),
        prompt_tokens=np.array([len(prompts[p]) for p, _ in drawn]),
        finished=np.array([answer.outputs[0].finish_reason != "length" for answer in answers]),
        tokens=np.concatenate([np.array(row, dtype=np.int32) for row in rows]),
        offsets=np.cumsum([0, *map(len, rows)]),
    )
