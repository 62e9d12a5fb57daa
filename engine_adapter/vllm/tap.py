"""The hidden tap: picks, from the layers' outputs of one step, the rows that the predictor needs.

A row of age a is the hidden state at the position of the a-th generated token; age 0 is the last prompt token. In
transformers' terms it is ``hidden_states[L][position]``, the tapped layers one after the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
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
    """What one pass ships: N rows."""

    step: int
    at: Ints
    """[N] which tokens of the pass."""
    handles: npt.NDArray[np.uint64]
    ages: npt.NDArray[np.uint32]


class Shipper(Protocol):
    """Brings the vectors of what was picked out of the engine; never waits."""

    @property
    def behind(self) -> bool:
        """Whether the device is still at work on the pass whose rows were picked last."""
        ...

    def __call__(self, picked: Picked, layers: Sequence[torch.Tensor]) -> None: ...


class Tap:
    """Follows every request of one worker; ``capture`` is called once a forward pass, where it is ``due``."""

    def __init__(
        self,
        predict_every_tokens: int,
        ship: Shipper,
        *,
        share: float = 1.0,
        places: int = 64,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """
        Args:
            share: of the engine thread's time that captures may take, where the device does not hold it up anyway.
            places: requests that are followed at first; more make it grow.
        """
        self._every = predict_every_tokens
        self._ship = ship
        self._share, self._clock = share, clock
        self._cost_s = self._next_s = 0.0
        self._places: dict[str, int] = {}
        self._free: list[int] = []
        self._batch: list[str] = []
        """Who was in the pass before, at ``_batch_places``."""
        self._batch_places: Ints = _NOBODY
        self._handles = np.zeros(0, np.uint64)
        self._newest = np.zeros(0, np.int64)
        """Age of the newest row shipped; -1: none."""
        self._steps = 0
        self._grow(places)

    @property
    def due(self) -> bool:
        """Whether the pass under way should be captured.

        An engine that waits for its device loses nothing by it. One that is held up by its own thread does, and
        predictions that are a few tokens older are as good.
        """
        return self._share >= 1 or self._ship.behind or self._clock() >= self._next_s

    def forget(self, request_ids: Iterable[str]) -> None:
        """Drops what is known of requests that ended."""
        for name in request_ids:
            place = self._places.pop(name, None)
            if place is not None:
                self._free.append(place)
                self._batch, self._batch_places = [], _NOBODY

    def capture(self, batch: StepBatch, layers: Sequence[torch.Tensor]) -> None:
        """Ships the rows of one pass: of each request the last token's, where it is of a new age.

        Args:
            layers: one [tokens, hidden] tensor a tapped layer; the tokens of the requests follow each other, padding
                may follow them.
        """
        began_s = self._clock()
        self._steps += 1
        places = self._places_of(batch.request_ids)
        ages = batch.computed + batch.scheduled - batch.prompt_tokens
        fresh = ages > self._newest[places]
        if self._every > 1:
            fresh &= ages % self._every == 0
        at = np.cumsum(batch.scheduled) - 1
        if not fresh.all():
            places, ages, at = places[fresh], ages[fresh], at[fresh]
        if len(at):
            self._newest[places] = ages
            self._ship(Picked(self._steps, at, self._handles[places], ages.astype(np.uint32)), layers)
        self._spent(began_s)

    def _spent(self, began_s: float) -> None:
        cost_s = self._clock() - began_s
        # One that took long by accident shall not silence the tap.
        self._cost_s += (min(cost_s, 2 * self._cost_s) - self._cost_s) / 4 if self._cost_s else cost_s
        self._next_s = began_s + self._cost_s / self._share

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
        self._newest[place] = -1
        return place

    def _grow(self, more: int) -> None:
        size = len(self._handles)
        self._free.extend(range(size + more - 1, size - 1, -1))
        self._handles = np.concatenate((self._handles, np.zeros(more, np.uint64)))
        self._newest = np.concatenate((self._newest, np.zeros(more, np.int64)))
