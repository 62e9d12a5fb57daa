"""What the requests of one stream sent, kept until it is worth a file."""

import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictor_service.npz import Arrays
from predictor_service.step import Declaration, Rows, Step

FORMAT = 1
_FLOAT16_MAX = 65504.0


@dataclass(frozen=True)
class Origin:
    """The stream that rows come from."""

    engine_id: str
    incarnation: int
    model: str
    layers: tuple[int, ...]
    projection: str = ""
    """Id of what its rows went through; empty: they are the layers' values."""


@dataclass
class Recording:
    """Rows of one request in ``every``, chosen by its id: the same in every life of the engine.

    A file names engine, incarnation, model, layers and the dtype in which rows came; for each request with a row in it
    (``request_id``) the prompt's token ids (``prompt``, flat, ends in ``prompt_ends``), the prompt's length and the cap
    that it carries (0: none); for each row its request's number in the file, age (0: the last prompt token) and hidden
    state in float16.
    """

    origin: Origin
    every: int
    living: dict[int, Declaration] = field(default_factory=dict)
    size_bytes: int = 0
    since_s: float = 0.0
    """When the oldest row that is kept here came, on the monotonic clock."""
    _requests: list[Declaration] = field(default_factory=list)  # one a row
    _ages: list[int] = field(default_factory=list)
    _hidden: list[NDArray[np.float16]] = field(default_factory=list)
    _received: str = ""

    def declare(self, declared: Iterable[Declaration]) -> None:
        for declaration in declared:
            if zlib.crc32(declaration.request_id.encode()) % self.every == 0:
                self.living[declaration.handle] = declaration

    def add(self, step: Step) -> int:
        """Takes the rows of chosen requests; returns how many."""
        self.declare(step.declared)
        taken = self._add_rows(step.prompts) + self._add_rows(step.decodes)
        for handle in step.finished.tolist():
            self.living.pop(handle, None)
        return taken

    def take(self) -> Arrays:
        """The arrays of a file, of all rows since the last call."""
        requests = list({request.request_id: request for request in self._requests}.values())
        number = {request.request_id: i for i, request in enumerate(requests)}
        prompts = [request.prompt.token_ids for request in requests]
        arrays: dict[str, Any] = {
            "format": FORMAT,
            "engine_id": self.origin.engine_id,
            "incarnation": np.uint64(self.origin.incarnation),
            "model": self.origin.model,
            "layers": self.origin.layers,
            "received": self._received,
            "request_id": [request.request_id for request in requests],
            "prompt": np.concatenate(prompts),
            "prompt_ends": np.cumsum([len(prompt) for prompt in prompts]),
            "prompt_tokens": [request.prompt.tokens for request in requests],
            "max_tokens": [request.max_tokens for request in requests],
            "request": np.array([number[request.request_id] for request in self._requests], dtype=np.int32),
            "age": np.array(self._ages, dtype=np.int32),
            "hidden": np.concatenate(self._hidden),
        }
        self._requests, self._ages, self._hidden, self.size_bytes = [], [], [], 0
        return {name: np.asarray(value) for name, value in arrays.items()}

    def _add_rows(self, rows: Rows) -> int:
        kept = [i for i, handle in enumerate(rows.handles.tolist()) if handle in self.living]
        if not kept:
            return 0
        chosen = rows.hidden[kept]
        hidden = np.clip(chosen, -_FLOAT16_MAX, _FLOAT16_MAX).astype(np.float16)
        finite = np.isfinite(chosen).all(axis=1)
        usable = [i for i, good in zip(kept, finite.tolist(), strict=True) if good]
        if not usable:
            return 0
        if not self.size_bytes:
            self.since_s = time.monotonic()
        self._received = _dtype_received(chosen)
        self._requests += [self.living[handle] for handle in rows.handles[usable].tolist()]
        self._ages += rows.ages[usable].tolist()
        self._hidden.append(hidden[finite])
        self.size_bytes += self._hidden[-1].nbytes
        return len(usable)


def file_name(origin: Origin) -> str:
    """Where the next file goes, below the folder of recordings. An engine's id alone could be ``..``."""
    return f"engine-{origin.engine_id}/{origin.incarnation:016x}-{time.time_ns()}.npz"


def _dtype_received(hidden: NDArray[Any]) -> str:
    """bfloat16 comes widened to float32: the lower half of every value is empty."""
    if hidden.dtype == np.float32 and not np.any(np.ascontiguousarray(hidden).view(np.uint32) & 0xFFFF):
        return "bfloat16"
    return str(hidden.dtype)


def declared_bytes(declared: Sequence[Declaration]) -> int:
    return sum(declaration.prompt.token_ids.nbytes for declaration in declared)
