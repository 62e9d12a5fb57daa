"""Tokens that a request must get whatever happens around it: each depends on the prompt and on all tokens before it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

VOCABULARY = 50_000


class Generation:
    """One request's output so far."""

    def __init__(self, prompt: Sequence[int]) -> None:
        self.tokens: list[int] = []
        self._seen = hashlib.blake2b(repr(list(prompt)).encode(), digest_size=8)

    def generate(self, age_tokens: int) -> None:
        """The next token, by what the engine takes for the request's age: one left out or made twice changes all after
        it."""
        self._seen.update(age_tokens.to_bytes(8, "little"))
        self.tokens.append(int.from_bytes(self._seen.digest(), "little") % VOCABULARY)


def alone(prompt: Sequence[int], output_tokens: int) -> list[int]:
    """What the request gets on an engine that serves nobody else."""
    generation = Generation(prompt)
    for age_tokens in range(output_tokens):
        generation.generate(age_tokens)
    return generation.tokens
