"""What the requests of one block added up to."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import Any, Self

from scheduler_service.experiments.sketch import Sketch
from scheduler_service.messages import Outcome


@dataclass(slots=True)
class Tally:
    """Sums over requests that arrived in the measured part of a block; seconds and tokens."""

    requests: int = 0
    errors: int = 0
    aborts: int = 0
    finished_tokens: int = 0
    """Output of requests that ended in the measured part, whenever they arrived."""
    preemptions: int = 0
    recomputed_tokens: int = 0
    latency_s: Sketch = field(default_factory=Sketch)
    ttft_s: Sketch = field(default_factory=Sketch)
    slowdown_s: Sketch = field(default_factory=Sketch)
    """Latency by output tokens, as Orca and vLLM normalise it."""

    def add(self, outcome: Outcome) -> None:
        """Times count of those that came to their own end; a request that was cut short has none."""
        self.requests += 1
        self.errors += outcome.reason == "error"
        self.aborts += outcome.reason == "abort"
        self.preemptions += outcome.preemptions
        self.recomputed_tokens += outcome.recomputed_tokens
        if outcome.whole:
            self.latency_s.add(outcome.latency_s)
            self.slowdown_s.add(outcome.latency_s / max(outcome.output_tokens, 1))
            if outcome.time_to_first_token_s > 0:
                self.ttft_s.add(outcome.time_to_first_token_s)

    def merge(self, other: Self) -> None:
        """Adds what another replica counted."""
        for each in fields(self):
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            if isinstance(mine, Sketch):
                mine.merge(theirs)
            else:
                setattr(self, each.name, mine + theirs)

    def packed(self) -> str:
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return json.dumps({name: v.packed() if isinstance(v, Sketch) else v for name, v in values.items()})

    @classmethod
    def unpacked(cls, text: str | bytes) -> Self:
        """Raises ValueError for what `packed` did not write."""
        try:
            values: dict[str, Any] = json.loads(text)
            read: Any = {n: Sketch.unpacked(v) if isinstance(v, dict) else int(v) for n, v in values.items()}
            return cls(**read)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a tally: {error!r}") from None
