"""The hidden tap: picks, from the layers' outputs of one step, the rows that the predictor needs.

A row of age a is the hidden state at the position of the a-th generated token; age 0 is the last prompt token. In
transformers' terms it is ``hidden_states[L][position]``, the tapped layers one after the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from engine_adapter.records import handle_of

Ints = npt.NDArray[np.integer]
_NOBODY: Ints = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class StepBatch:
    """One forward pass of B requests, in the order of the batch. Shapes [B]."""

    request_ids: Sequence[str]
    computed: Ints
    """Position of each request's first token in this pass."""
    scheduled: Ints
    """Tokens of each request in this pass; at least 1."""
    prompt_tokens: Ints


@dataclass(frozen=True, slots=True)
class Picked:
    """What one pass ships: N decode rows and M prompts that are complete."""

    step: int
    at: Ints
    """[N + M] which tokens of the pass, decode rows first."""
    handles: npt.NDArray[np.uint64]
    ages: npt.NDArray[np.uint32]
    prompt_handles: npt.NDArray[np.uint64]
    covered: npt.NDArray[np.uint32]
    total: npt.NDArray[np.uint32]
    sums: Sequence[torch.Tensor]
    """[M] of [D] float32: each prompt's vectors added up."""


class Shipper(Protocol):
    """Brings the vectors of what was picked out of the engine; never waits."""

    def __call__(self, picked: Picked, layers: Sequence[torch.Tensor]) -> None: ...


class Tap:
    """Follows every request of one worker; ``capture`` is called once a forward pass."""

    def __init__(self, predict_every_tokens: int, ship: Shipper, places: int = 64) -> None:
        """``places``: requests that are followed at first; more make it grow."""
        self._every = predict_every_tokens
        self._ship = ship
        self._places: dict[str, int] = {}
        self._free: list[int] = []
        self._batch: list[str] = []
        """Who was in the pass before, at ``_batch_places``."""
        self._batch_places: Ints = _NOBODY
        self._next_rows: tuple[Ints, Picked] | None = None
        """Where all of a pass decoded: the ``computed`` that the next such pass would have, and what was shipped."""
        self._handles = np.zeros(0, np.uint64)
        self._newest = np.zeros(0, np.int64)
        """Age of the newest row shipped; -1: none."""
        self._next = np.zeros(0, np.int64)
        """Position up to which the prompt has passed the model; -1: nowhere."""
        self._covered = np.zeros(0, np.int64)
        self._sums: dict[int, torch.Tensor] = {}
        self._steps = 0
        self._grow(places)

    def forget(self, request_ids: Iterable[str]) -> None:
        """Drops what is known of requests that ended."""
        for name in request_ids:
            place = self._places.pop(name, None)
            if place is not None:
                self._free.append(place)
                self._sums.pop(place, None)
                self._batch, self._batch_places = [], _NOBODY

    def capture(self, batch: StepBatch, layers: Sequence[torch.Tensor]) -> None:
        """Ships the rows of one pass.

        Args:
            layers: one [tokens, hidden] tensor a tapped layer; the tokens of the requests follow each other, padding
                may follow them.
        """
        self._steps += 1
        if batch.request_ids == self._batch and self._next_rows is not None:
            computed, decoded = self._next_rows
            if np.array_equal(batch.computed, computed) and batch.scheduled.sum() == len(computed):
                self._ship_next(computed, decoded, layers)
                return
        self._next_rows = None
        places = self._places_of(batch.request_ids)
        newest = self._newest[places]
        ages = batch.computed + batch.scheduled - batch.prompt_tokens
        ends = np.cumsum(batch.scheduled)
        decodes = ages > newest
        if self._every > 1:
            decodes &= ages % self._every == 0
        complete = _NOBODY
        if newest.min(initial=0) < 0:
            decodes &= ages > 0
            young = newest < 0
            for row in np.flatnonzero(young & (batch.computed < batch.prompt_tokens)).tolist():
                self._add(int(places[row]), batch, row, int(ends[row]), layers)
            complete = np.flatnonzero(young & (ages == 0))
        rows = np.flatnonzero(decodes)
        if not (rows.size or complete.size):
            return
        if rows.size < places.size:
            ready, prompt_ends, total = places[complete], ends[complete], batch.prompt_tokens[complete]
            self._newest[ready] = 0
            places, ages, ends = places[rows], ages[rows], ends[rows]
        else:
            ready, prompt_ends, total = _NOBODY, _NOBODY, _NOBODY
        self._newest[places] = ages
        picked = Picked(
            step=self._steps,
            at=(np.concatenate((ends, prompt_ends)) if ready.size else ends) - 1,
            handles=self._handles[places],
            ages=ages.astype(np.uint32),
            prompt_handles=self._handles[ready],
            covered=self._covered[ready].astype(np.uint32),
            total=total.astype(np.uint32),
            sums=[self._sum(place, layers) for place in ready.tolist()],
        )
        if len(picked.ages) == len(batch.request_ids) == ends[-1] and self._every == 1:
            self._next_rows = batch.computed + 1, picked
        self._ship(picked, layers)

    def _ship_next(self, computed: Ints, before: Picked, layers: Sequence[torch.Tensor]) -> None:
        """All decode one token further: what most passes do, in an engine that Python holds up."""
        self._newest[self._batch_places] += 1
        picked = replace(before, step=self._steps, ages=before.ages + 1)
        self._next_rows = computed + 1, picked
        self._ship(picked, layers)

    def _places_of(self, request_ids: Sequence[str]) -> Ints:
        """[B]; newcomers get one."""
        if request_ids != self._batch:
            known = self._places
            for name in request_ids:
                if name not in known:
                    known[name] = self._place(name)
            self._batch = list(request_ids)
            self._batch_places = np.fromiter(map(known.__getitem__, request_ids), np.int64, len(request_ids))
        return self._batch_places

    def _place(self, name: str) -> int:
        if not self._free:
            self._grow(max(len(self._handles), 1))
        place = self._free.pop()
        self._handles[place] = handle_of(name)
        self._newest[place] = self._next[place] = -1
        self._covered[place] = 0
        return place

    def _grow(self, more: int) -> None:
        size = len(self._handles)
        self._free.extend(range(size + more - 1, size - 1, -1))
        self._handles = np.concatenate((self._handles, np.zeros(more, np.uint64)))
        added = np.zeros(more, np.int64)
        self._newest, self._next, self._covered = (
            np.concatenate((column, added)) for column in (self._newest, self._next, self._covered)
        )

    def _add(self, place: int, batch: StepBatch, row: int, end: int, layers: Sequence[torch.Tensor]) -> None:
        """Adds the prompt's vectors of this pass; starts again where a recompute has begun."""
        computed, scheduled = int(batch.computed[row]), int(batch.scheduled[row])
        tokens = min(scheduled, int(batch.prompt_tokens[row]) - computed)
        start = end - scheduled
        if computed != self._next[place]:
            self._covered[place] = 0
            self._sums.pop(place, None)
        part = torch.cat([layer[start : start + tokens].sum(0, dtype=torch.float32) for layer in layers])
        before = self._sums.get(place)
        self._sums[place] = part if before is None else before + part
        self._covered[place] += tokens
        self._next[place] = computed + tokens

    def _sum(self, place: int, layers: Sequence[torch.Tensor]) -> torch.Tensor:
        """The whole prompt's; zeros where the prefix cache had all of it."""
        found = self._sums.pop(place, None)
        if found is None:
            found = torch.zeros(sum(layer.shape[1] for layer in layers), device=layers[0].device)
        return found
