"""Random traffic for vLLM's scheduler: whatever clients and operators may do between two steps."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vllm.sampling_params import StructuredOutputsParams
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.request import RequestStatus

from tests.integration.vllm_engine import BLOCK_TOKENS, VOCABULARY, PretendEngine

Act = Callable[[PretendEngine], None]
"""What is done to an engine; each of several engines can be done the same."""
FORMS = {"[a-f]{3,9}": {"regex": "[a-f]{3,9}"}, "true|false": {"json": '{"type": "boolean"}'}, "": {"json": "{"}}
"""Of structured output, by the pattern that an answer must have. The last is no grammar: its requests end in error."""


@dataclass(frozen=True)
class Setup:
    """An engine's settings; ``options`` as `PretendEngine` has them."""

    blocks: int
    slots: int
    options: dict[str, Any]

    @classmethod
    def drawn(cls, dice: random.Random) -> Setup:
        chunked = dice.random() < 0.8
        max_length = dice.choice([250, 2048])
        options = {
            "step_tokens": dice.choice([24, 64, 200]) if chunked else max_length,
            "long_prefill_tokens": dice.choice([0, 0, 20]) if chunked else 0,
            "chunked_prefill": chunked,
            "prefix_caching": dice.random() < 0.8,
            "max_adapters": dice.choice([0, 1, 2]),
            "max_length": max_length,
            "structured_output": dice.random() < 0.5,
        }
        return cls(dice.choice([20, 40, 400]), dice.choice([1, 3, 8]), options)


@dataclass
class Traffic:
    """``count`` requests of all kinds, some of them aborted; now and then the engine is paused or its cache emptied."""

    dice: random.Random
    setup: Setup
    count: int
    sessions: bool = True
    """Whether some requests go on: their client sends more of the prompt later."""

    def __post_init__(self) -> None:
        self.arrivals: dict[str, Act] = {}
        self.aborted: set[str] = set()
        self.open: dict[str, int] = {}
        """Sessions that their client has not ended, with their adapter."""
        self.forms: dict[str, str] = {}
        """The pattern of those with structured output."""
        self._prefixes = [self._tokens(self.dice.randrange(20, 90)) for _ in range(3)]

    @property
    def over(self) -> bool:
        return len(self.arrivals) == self.count and not self.open

    def between_steps(self) -> list[Act]:
        dice, acts = self.dice, list[Act]()
        for name in [*self.open]:
            if dice.random() < 0.1:
                acts.append(self._next_of(name))
        while len(self.arrivals) < self.count and dice.random() < 0.35:
            acts.append(self._arrival())
        if dice.random() < 0.5:
            acts.append(lambda engine: engine.compiling.release())
        if dice.random() < 0.01:
            running_too = not self.sessions  # vLLM cannot: sessions that wait hold KV blocks
            acts.append(lambda engine: engine.scheduler.reset_prefix_cache(reset_running_requests=running_too))
        if dice.random() < 0.25:
            state = dice.choice([PauseState.PAUSED_NEW, PauseState.PAUSED_ALL, *[PauseState.UNPAUSED] * 8])
            acts.append(lambda engine: engine.scheduler.set_pause_state(state))
        return [*acts, *self.aborts()]

    def aborts(self) -> list[Act]:
        """Of who waits, runs, has ended or never was."""
        if self.dice.random() > 0.04 or not self.arrivals:
            return []
        gone = {self.dice.choice([*self.arrivals][-12:]), "nobody"}
        self.aborted |= gone
        for name in gone & {*self.open}:
            del self.open[name]
        return [lambda engine: engine.scheduler.finish_requests(gone, RequestStatus.FINISHED_ABORTED)]

    def _arrival(self) -> Act:
        dice, options = self.dice, self.setup.options
        name = f"r{len(self.arrivals)}"
        longest = min(options["max_length"], (self.setup.blocks - 2) * BLOCK_TOKENS) // 2
        prompt = dice.choice([[], *self._prefixes]) + self._tokens(dice.choice([dice.randrange(1, 20), 60, longest]))
        prompt = prompt[:longest]
        length = dice.choice([1, 5, 30, 60 if options["max_length"] > 1000 else 10_000])
        adapter = dice.randrange(options["max_adapters"] + 3) if options["max_adapters"] else 0
        sampling: dict[str, Any] = {}
        if dice.random() < 0.3:
            sampling = {
                "stop_token_ids": dice.sample(range(VOCABULARY), 60),
                "min_tokens": dice.randrange(min(length, 5)),
            }
        if options["structured_output"] and dice.random() < 0.3:
            self.forms[name], given = dice.choice([*FORMS.items()])
            form = StructuredOutputsParams(**given)
            form._backend = "xgrammar"
            sampling, length = {"structured_outputs": form, "ignore_eos": False}, 40
        elif self.sessions and dice.random() < 0.1:
            prompt, length = prompt[:20], 6
            self.open[name] = adapter
        resumable = name in self.open
        self.arrivals[name] = lambda engine: engine.add(
            name, prompt, length, adapter, sampling=sampling, resumable=resumable
        )
        return self.arrivals[name]

    def _next_of(self, name: str) -> Act:
        """More of a session's prompt, or its end."""
        adapter, more, goes_on = self.open[name], self._tokens(5), self.dice.random() < 0.6
        if not goes_on:
            del self.open[name]
        return lambda engine: engine.add(name, more, 6, adapter, resumable=goes_on)

    def _tokens(self, count: int) -> list[int]:
        return [self.dice.randrange(VOCABULARY) for _ in range(count)]
