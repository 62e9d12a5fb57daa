"""What was predicted for requests whose outcome is not known yet: a few predictions of each, at random ages."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from predictor_service.artefact import Artefact
from predictor_service.step import Stage

PREDICTIONS_A_REQUEST = 4
MAX_LIVING = 4096
MAX_ENDED = 1024
_FROM_HIDDEN_STATES = (Stage.PREFILL, Stage.DECODE)


class Prediction(NamedTuple):
    """Of one request at one age; lengths are tokens still to come."""

    age_tokens: int
    median: float
    p10: float
    p90: float


@dataclass(frozen=True)
class Answered:
    """The predictions of one step, one entry a request [N]."""

    handles: Sequence[int]
    ages: Sequence[int]
    stages: Sequence[int]
    median: Sequence[float]
    p10: Sequence[float]
    p90: Sequence[float]

    def prediction(self, row: int) -> Prediction:
        return Prediction(self.ages[row], self.median[row], self.p10[row], self.p90[row])


@dataclass(slots=True)
class Notes:
    """Predictions of one request by one artefact: a uniform sample of those that were made.

    Reservoir sampling by skips (Li 1994, Algorithm L), so that most predictions cost a comparison.
    """

    request_id: str
    artefact: Artefact
    predictions: list[Prediction] = field(default_factory=list)
    _weight: float = 1.0
    _to_skip: int = 0

    def wants_next(self) -> bool:
        """Asked once for each prediction that was made."""
        if self._to_skip:
            self._to_skip -= 1
            return False
        return True

    def take(self, prediction: Prediction, rng: np.random.Generator) -> None:
        """Keeps it, in place of another where there are enough."""
        if len(self.predictions) < PREDICTIONS_A_REQUEST:
            self.predictions.append(prediction)
        else:
            self.predictions[rng.integers(PREDICTIONS_A_REQUEST)] = prediction
        if len(self.predictions) == PREDICTIONS_A_REQUEST:
            self._weight *= float(rng.random() ** (1 / PREDICTIONS_A_REQUEST))
            self._to_skip = int(np.log(rng.random()) / np.log1p(-self._weight))


@dataclass(slots=True)
class _Page:
    """Of one engine: living requests by handle, and those that ended by request id, oldest first."""

    living: dict[int, Notes] = field(default_factory=dict)
    ended: dict[str, Notes] = field(default_factory=dict)

    def end(self, handle: int) -> None:
        notes = self.living.pop(handle, None)
        if notes is None:
            return
        self.ended[notes.request_id] = notes
        if len(self.ended) > MAX_ENDED:
            del self.ended[next(iter(self.ended))]


class Journal:
    """Notes of at most `most_engines` engines, MAX_LIVING living requests and MAX_ENDED ended ones of each; what is
    beyond is left out. Nothing here waits."""

    def __init__(self, *, most_engines: int, seed: int | None = None) -> None:
        self._most_engines = most_engines
        self._rng = np.random.default_rng(seed)
        self._pages: dict[str, _Page] = {}

    @property
    def engines(self) -> list[str]:
        """Those of which something is noted."""
        return [engine_id for engine_id, page in self._pages.items() if page.living or page.ended]

    def opened(self, engine_id: str, artefact: Artefact, declared: Iterable[tuple[int, str]]) -> None:
        """A stream opened: the declared requests (handle, request id) live, the others ended."""
        page = self._pages.pop(engine_id, _Page())
        # Last in the order of use.
        self._pages[engine_id] = page
        if len(self._pages) > self._most_engines:
            del self._pages[next(iter(self._pages))]
        named = dict(declared)
        for handle in [handle for handle, notes in page.living.items() if named.get(handle) != notes.request_id]:
            page.end(handle)
        self._declare(page, artefact, named.items())

    def stepped(
        self,
        engine_id: str,
        artefact: Artefact,
        declared: Iterable[tuple[int, str]],
        answered: Answered,
        finished: Iterable[int],
    ) -> None:
        """A step was answered: requests declared (handle, request id), predictions, handles that ended."""
        page = self._pages.get(engine_id)
        if page is None:
            return
        self._declare(page, artefact, declared)
        for row, handle in enumerate(answered.handles):
            notes = page.living.get(handle)
            if notes is None:
                continue
            if notes.artefact is not artefact:
                notes = page.living[handle] = Notes(notes.request_id, artefact)
            if notes.wants_next() and answered.stages[row] in _FROM_HIDDEN_STATES:
                notes.take(answered.prediction(row), self._rng)
        for handle in finished:
            page.end(handle)

    def take(self, engine_id: str, handle: int, request_id: str) -> Notes | None:
        """The notes of a request whose outcome is known, perhaps before its last step is; they are forgotten here."""
        page = self._pages.get(engine_id)
        if page is None:
            return None
        living = page.living.get(handle)
        if living is not None and living.request_id == request_id:
            return page.living.pop(handle)
        return page.ended.pop(request_id, None)

    def _declare(self, page: _Page, artefact: Artefact, declared: Iterable[tuple[int, str]]) -> None:
        for handle, request_id in declared:
            known = page.living.get(handle)
            if known is not None and known.request_id != request_id:
                page.end(handle)
            elif known is not None or len(page.living) >= MAX_LIVING:
                continue
            page.living[handle] = Notes(request_id, artefact)
