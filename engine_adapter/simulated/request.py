"""One request of the simulated engine."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine_adapter.records import handle_of

if TYPE_CHECKING:
    from engine_adapter.simulated.batch import Batch


@dataclass(slots=True, eq=False)
class SimulatedRequest:
    """``output_tokens`` is how many it will generate, which only the model knows.

    ``prefix_keys[i]`` names the content of its first i + 1 full KV blocks: requests with the same key share them in
    the prefix cache. ``handle`` is made from the id unless it is given.
    """

    request_id: str
    prompt_token_ids: Sequence[int]
    output_tokens: int
    arrival_s: float
    max_tokens: int = 0
    declared_output_tokens: int = 0
    priority: int = 0
    tenant: str = ""
    prefix_keys: Sequence[Hashable] = ()
    handle: int = 0
    prompt_tokens: int = field(init=False)
    tapped_age: int = field(default=-1, init=False)
    """Age of the newest row that was shipped; -1: none."""
    first_token_s: float | None = field(default=None, init=False)
    preemptions: int = field(default=0, init=False)
    held_keys: list[Hashable] = field(default_factory=list, init=False)
    """Those of ``prefix_keys`` whose blocks it holds a reference to."""
    batch: Batch | None = field(default=None, init=False)
    """While it runs, its progress is in the batch's arrays; else in the four fields below."""
    parked_age_tokens: int = field(default=0, init=False)
    parked_lost_tokens: int = field(default=0, init=False)
    parked_recomputed_tokens: int = field(default=0, init=False)
    cached_tokens: int = field(default=0, init=False)
    """Tokens whose KV entries came from the prefix cache, over its whole life."""

    def __post_init__(self) -> None:
        self.handle = self.handle or handle_of(self.request_id)
        self.prompt_tokens = len(self.prompt_token_ids)
        if self.output_tokens < 1 or not self.prompt_tokens:
            raise ValueError(f"{self.request_id}: needs a prompt, and at least one token to generate")

    @property
    def age_tokens(self) -> int:
        return self.parked_age_tokens if self.batch is None else self.batch.age_of(self)

    @property
    def computed_tokens(self) -> int:
        """Tokens, prompt and generated, whose KV entries exist."""
        return 0 if self.batch is None else self.batch.computed_of(self)

    @property
    def recomputed_tokens(self) -> int:
        """KV entries that were computed once more because a preemption had discarded them."""
        return self.parked_recomputed_tokens if self.batch is None else self.batch.recomputed_of(self)

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.age_tokens
