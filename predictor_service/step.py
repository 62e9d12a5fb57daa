"""One engine step and its predictions, as arrays: what crosses between wire and session."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from predictor_service.bins import Array
from predictor_service.prompt import Prompt

Handles = npt.NDArray[np.uint64]
Ages = npt.NDArray[np.int64]


class Stage(IntEnum):
    """How much is known; numbers as in trail.v1.Stage."""

    PROMPT = 1
    PREFILL = 2
    DECODE = 3
    EXTERNAL = 4


class RowStatus(IntEnum):
    """Why a row could not be used; numbers as in trail.v1.RowStatus."""

    NOT_FINITE = 1
    UNKNOWN_HANDLE = 2
    STALE = 3


@dataclass(frozen=True)
class Declaration:
    handle: int
    request_id: str
    prompt: Prompt
    age_tokens: int
    max_tokens: int = 0
    """The cap that the request carries; 0: none."""


@dataclass(frozen=True)
class Rows:
    """Hidden states [N, dim], as they are or projected, of the requests `handles` [N] at `ages` [N] tokens."""

    handles: Handles
    ages: Ages
    hidden: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.handles)


@dataclass(frozen=True)
class Step:
    number: int
    declared: tuple[Declaration, ...]
    prompts: Rows
    decodes: Rows
    finished: Handles
    projection: str = ""
    """Id of what the rows went through; empty: they are the layers' values."""

    @property
    def rows(self) -> int:
        return len(self.prompts) + len(self.decodes)


@dataclass(frozen=True)
class RowProblem:
    handle: int
    status: RowStatus
    message: str


@dataclass(frozen=True)
class Predictions:
    """One entry a request [N]. Lengths are tokens still to come after `ages`; `initial` is the total r."""

    step: int
    handles: Handles
    ages: Ages
    stages: npt.NDArray[np.int64]
    mean: Array
    median: Array
    p10: Array
    p90: Array
    initial: Array
    problems: tuple[RowProblem, ...] = ()

    def __len__(self) -> int:
        return len(self.handles)


@dataclass(frozen=True)
class Record:
    """Everything that is remembered of a request. `r1` is 0 until its prefill has been seen."""

    request_id: str
    handle: int
    step: int
    age_tokens: int
    stage: int
    r0: float
    r1: float
    mean: float
    median: float
    p10: float
    p90: float
    q: Array
    model: str


@dataclass(frozen=True)
class Records:
    """Records of N requests of one model as columns [N]; `q` is [N, bins]."""

    request_ids: Sequence[str]
    handles: Handles
    steps: npt.NDArray[np.uint64]
    ages: Ages
    stages: npt.NDArray[np.int64]
    r0: Array
    r1: Array
    mean: Array
    median: Array
    p10: Array
    p90: Array
    q: Array
    model: str

    def __len__(self) -> int:
        return len(self.request_ids)


@dataclass(frozen=True)
class Applied:
    """What a step did: predictions to send, records to store (None: none), request ids to delete, and when the
    classifier began and ended (seconds of `time.perf_counter`; None: it did not run)."""

    predictions: Predictions
    records: Records | None = None
    gone: list[str] = field(default_factory=list)
    model_run: tuple[float, float] | None = None
