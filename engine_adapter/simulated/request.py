"""One request of the simulated engine."""

from dataclasses import dataclass, field

from engine_adapter.records import handle_of


@dataclass(slots=True, eq=False)
class SimulatedRequest:
    """``output_tokens`` is how many it will generate, which only the model knows."""

    request_id: str
    prompt_token_ids: tuple[int, ...]
    output_tokens: int
    arrival_s: float
    max_tokens: int = 0
    declared_output_tokens: int = 0
    priority: int = 0
    tenant: str = ""
    handle: int = field(init=False)
    age_tokens: int = 0
    computed_tokens: int = 0
    """Tokens, prompt and generated, whose KV entries exist."""
    tapped_age: int = -1
    """Age of the newest row that was shipped; -1: none."""
    first_token_s: float | None = None
    preemptions: int = 0
    recomputed_tokens: int = 0
    lost_tokens: int = 0
    """KV entries that the newest preemption discarded and that are not computed again yet."""

    def __post_init__(self) -> None:
        self.handle = handle_of(self.request_id)
        if self.output_tokens < 1 or not self.prompt_token_ids:
            raise ValueError(f"{self.request_id}: needs a prompt, and at least one token to generate")

    @property
    def tokens(self) -> int:
        return len(self.prompt_token_ids) + self.age_tokens

    @property
    def in_prefill(self) -> bool:
        return self.tokens - self.computed_tokens > 1

    def compute(self, tokens: int) -> None:
        """Adds KV entries of ``tokens`` more tokens."""
        again = min(tokens, self.lost_tokens)
        self.recomputed_tokens += again
        self.lost_tokens -= again
        self.computed_tokens += tokens

    def preempt(self) -> None:
        """Discards its KV entries."""
        self.preemptions += 1
        self.lost_tokens = self.computed_tokens
        self.computed_tokens = 0
