"""The hidden tap: picks, from the layers' outputs of one step, the rows that the predictor needs.

A row of age a is the hidden state at the position of the a-th generated token; age 0 is the last prompt token. In
transformers' terms it is ``hidden_states[L][position]``, the tapped layers one after the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from engine_adapter.records import Rows, handle_of

if TYPE_CHECKING:
    from collections.abc import Callable

DTYPES = {"float16": (1, torch.float16), "bfloat16": (2, torch.bfloat16), "float32": (3, torch.float32)}
"""Settings' names -> code of trail.v1.Dtype and torch's type."""


@dataclass(frozen=True, slots=True)
class StepBatch:
    """One forward pass of B requests, in the order of the batch. Shapes [B]."""

    request_ids: Sequence[str]
    computed: npt.NDArray[np.int64]
    """Position of each request's first token in this pass."""
    scheduled: npt.NDArray[np.int64]
    """Tokens of each request in this pass; at least 1."""
    prompt_tokens: npt.NDArray[np.int64]


@dataclass(slots=True)
class _Prompt:
    """How far the prompt of one request has passed the model."""

    handle: int
    next_position: int = -1
    covered: int = 0
    sum: torch.Tensor | None = None
    age: int = -1
    """Age of the newest row shipped; -1: none."""


@dataclass(slots=True)
class _Picked:
    handles: list[int] = field(default_factory=list)
    at: list[int] = field(default_factory=list)
    ages: list[int] = field(default_factory=list)


class Tap:
    """Follows every request of one worker; ``capture`` is called once a forward pass."""

    def __init__(self, row_dtype: str, predict_every_tokens: int, write: Callable[..., bool]) -> None:
        self._code, self._dtype = DTYPES[row_dtype]
        self._every = predict_every_tokens
        self._write = write
        self._prompts: dict[str, _Prompt] = {}
        self._steps = 0

    def forget(self, request_ids: Iterable[str]) -> None:
        """Drops what is known of requests that ended."""
        for name in request_ids:
            self._prompts.pop(name, None)

    def capture(self, batch: StepBatch, layers: Sequence[torch.Tensor]) -> None:
        """Ships the rows of one pass.

        Args:
            layers: one [tokens, hidden] tensor a tapped layer; the tokens of the requests follow each other, padding
                may follow them.
        """
        self._steps += 1
        decodes, ends = _Picked(), _Picked()
        sums: list[torch.Tensor] = []
        covered: list[int] = []
        total: list[int] = []
        start = 0
        for name, computed, scheduled, prompt in zip(
            batch.request_ids, batch.computed.tolist(), batch.scheduled.tolist(), batch.prompt_tokens.tolist(),
            strict=True,
        ):  # fmt: skip
            state = self._prompts.get(name)
            if state is None:
                state = self._prompts[name] = _Prompt(handle_of(name))
            last = computed + scheduled - 1
            age = last - prompt + 1
            if state.age < 0 and computed < prompt:
                self._add(state, layers, start, computed, min(scheduled, prompt - computed))
            if age == 0 and state.age < 0:
                ends.handles.append(state.handle)
                ends.at.append(start + scheduled - 1)
                covered.append(state.covered)
                total.append(prompt)
                sums.append(state.sum if state.sum is not None else _zeros(layers))
                state.age, state.sum = 0, None
            elif age > 0 and age > state.age and age % self._every == 0:
                decodes.handles.append(state.handle)
                decodes.at.append(start + scheduled - 1)
                decodes.ages.append(age)
                state.age = age
            start += scheduled
        if decodes.at or ends.at:
            self._ship(layers, decodes, ends, sums, covered, total)

    def _add(
        self, state: _Prompt, layers: Sequence[torch.Tensor], start: int, computed: int, prompt_tokens: int
    ) -> None:
        """Adds the prompt's vectors of this pass; starts again where a recompute has begun."""
        if computed != state.next_position:
            state.covered, state.sum = 0, None
        part = torch.cat([layer[start : start + prompt_tokens].sum(0, dtype=torch.float32) for layer in layers])
        state.sum = part if state.sum is None else state.sum + part
        state.covered += prompt_tokens
        state.next_position = computed + prompt_tokens

    def _ship(
        self,
        layers: Sequence[torch.Tensor],
        decodes: _Picked,
        ends: _Picked,
        sums: list[torch.Tensor],
        covered: list[int],
        total: list[int],
    ) -> None:
        index = torch.tensor(decodes.at + ends.at, device=layers[0].device)
        gathered = torch.cat([layer.index_select(0, index) for layer in layers], dim=1).to(self._dtype).cpu()
        bits = gathered.view(torch.int16).numpy().view(np.uint16) if self._code == 2 else gathered.numpy()
        dim = gathered.shape[1]
        split = len(decodes.at)
        rows = Rows(
            step=self._steps,
            dtype=self._code,
            dim=dim,
            handles=np.array(decodes.handles, np.uint64),
            ages=np.array(decodes.ages, np.uint32),
            vectors=bits[:split],
            prompt_handles=np.array(ends.handles, np.uint64),
            covered=np.array(covered, np.uint32),
            total=np.array(total, np.uint32),
            prompt_last=bits[split:],
            prompt_sum=torch.stack(sums).cpu().numpy() if sums else np.zeros((0, dim), np.float32),
        )
        self._write(*rows.pack())


def _zeros(layers: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.zeros(sum(layer.shape[1] for layer in layers), device=layers[0].device)
