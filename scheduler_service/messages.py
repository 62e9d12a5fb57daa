"""What reaches the scheduler, as plain values: protobuf stays in `wire`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from scheduler_service.view import Capacity, Floats, Handles, Ints


@dataclass(frozen=True, slots=True)
class Epoch:
    """Fencing token of one stream of one agent: equal, or another writer."""

    incarnation: int
    counter: int

    def __str__(self) -> str:
        return f"{self.incarnation}:{self.counter}"


@dataclass(frozen=True, slots=True)
class Declaration:
    """A request as it arrives, or as it stands when a stream opens."""

    handle: int
    request_id: str
    prompt_tokens: int = 0
    age: int = 0
    arrival_s: float = 0.0
    priority: int = 0
    tenant: str = ""
    deadline_s: float = 0.0
    declared_output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Open:
    """The first message of a Coordinate stream."""

    engine_id: str
    epoch: Epoch
    capacity: Capacity
    requests: tuple[Declaration, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Running:
    """The whole running batch; arrays of one length, in tokens."""

    handles: Handles
    ages: Ints
    computed_tokens: Ints


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended. `reason` is the lower-case name: stop, length, abort, error."""

    handle: int
    reason: str
    output_tokens: int
    latency_s: float = 0.0
    time_to_first_token_s: float = 0.0
    preemptions: int = 0
    recomputed_tokens: int = 0

    @property
    def whole(self) -> bool:
        """Whether the request came to its own end: its length and latency are what they would have been."""
        return self.reason in ("stop", "length")


@dataclass(frozen=True, slots=True)
class Delta:
    """What changed. `running` is None where the batch did not; `engine_steps` are those since it was last told, 0:
    as many as the step numbers differ."""

    epoch: Epoch
    step: int
    step_duration_s: float = 0.0
    arrived: tuple[Declaration, ...] = ()
    running: Running | None = None
    preempted: tuple[int, ...] = ()
    finished: tuple[Outcome, ...] = ()
    free_kv_blocks: int = 0
    engine_steps: int = 0
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class Finished:
    """An outcome beside what was predicted: totals `r0` and `r1`, 0 where unknown, and the last
    `mean` remaining with the age it was made at (-1: none)."""

    request: Declaration
    outcome: Outcome
    r0: float
    r1: float
    mean: float
    predicted_at_age: int


@dataclass(frozen=True, slots=True)
class Applied:
    """What a delta did, as far as others need to know."""

    progressed: bool = False
    unpredicted_arrivals: bool = False
    unknown_handles: int = 0
    stale: bool = False
    finished: tuple[Finished, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """Rows of predictions, arrays of one length [M].

    Lengths are tokens still to come after `ages`; `r0` and `r1` are totals, 0 where the row does not tell.
    `stages` rise with what was known: prompt 1, prefill 2, decode 3; someone else's is a prompt's.
    """

    ages: Ints
    stages: Ints
    mean: Floats
    median: Floats
    p10: Floats
    p90: Floats
    r0: Floats
    r1: Floats

    def usable(self) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """[M]: rows that can be ranked by; one that is not finite or negative would poison every rank."""
        lengths = np.stack([self.mean, self.median, self.p10, self.p90, self.r0, self.r1])
        return np.asarray((np.isfinite(lengths) & (lengths >= 0)).all(axis=0))


@dataclass(frozen=True, slots=True, eq=False)
class PublishedMessage:
    """One message of the predictions channel."""

    epoch: Epoch
    number: int
    handles: Handles
    predictions: Predictions
    traceparent: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """The stored predictions of every request of an engine, by request id."""

    request_ids: tuple[str, ...]
    predictions: Predictions
    unreadable: int = field(default=0)
