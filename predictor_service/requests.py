"""The living requests of one engine, as a structure of arrays."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from predictor_service.artefact import Artefact
from predictor_service.bins import Array
from predictor_service.step import Ages, Handles, Predictions, Record, Records, RowProblem, Stage

_FIRST_CAPACITY = 64


class Requests:
    """Row `slot` of every array belongs to one request, from `add` to `remove`.

    Units: `age` in generated tokens; `cap` in total tokens, infinite where there is none; `r0`, `r1` in total
    tokens (`r1` is 0 until known);
    `mean`, `median`, `p10` and `p90` in tokens still to come; `q` [slots, bins] is the posterior.
    """

    def __init__(self, artefact: Artefact) -> None:
        self._artefact = artefact
        self._by_handle: dict[int, int] = {}
        self._by_id: dict[str, int] = {}
        self._ids: list[str] = [""] * _FIRST_CAPACITY
        self._free = list(range(_FIRST_CAPACITY))
        self.handle = np.zeros(_FIRST_CAPACITY, dtype=np.uint64)
        self.step = np.zeros(_FIRST_CAPACITY, dtype=np.uint64)
        self.age = np.zeros(_FIRST_CAPACITY, dtype=np.int64)
        self.stage = np.zeros(_FIRST_CAPACITY, dtype=np.int64)
        self.cap = np.full(_FIRST_CAPACITY, np.inf)
        self.r0 = np.zeros(_FIRST_CAPACITY)
        self.r1 = np.zeros(_FIRST_CAPACITY)
        self.mean = np.zeros(_FIRST_CAPACITY)
        self.median = np.zeros(_FIRST_CAPACITY)
        self.p10 = np.zeros(_FIRST_CAPACITY)
        self.p90 = np.zeros(_FIRST_CAPACITY)
        self.q = np.zeros((_FIRST_CAPACITY, len(artefact.bins)))

    def __len__(self) -> int:
        return len(self._by_handle)

    def slot(self, handle: int) -> int | None:
        return self._by_handle.get(handle)

    def slots(self, handles: Handles) -> Ages:
        """Slots [N] of handles [N], -1 where one is not alive."""
        get = self._by_handle.get
        return np.array([get(handle, -1) for handle in handles.tolist()], dtype=np.int64)

    def slot_of_id(self, request_id: str) -> int | None:
        return self._by_id.get(request_id)

    def request_id(self, slot: int) -> str:
        return self._ids[slot]

    @property
    def ids(self) -> list[str]:
        return list(self._by_id)

    def add(self, handle: int, request_id: str, age_tokens: int, max_tokens: int) -> int:
        """The slot of a new request, of which nothing is known but its age."""
        if not self._free:
            self._grow()
        slot = self._free.pop()
        self._by_handle[handle] = self._by_id[request_id] = slot
        self._ids[slot] = request_id
        self.handle[slot], self.age[slot] = handle, age_tokens
        self.step[slot], self.stage[slot] = 0, Stage.PROMPT
        self.cap[slot] = max_tokens or np.inf
        self.r0[slot] = self.r1[slot] = 0.0
        return slot

    def remove(self, slot: int) -> str:
        """Forgets the request in `slot` and says which it was."""
        request_id = self._ids[slot]
        del self._by_handle[int(self.handle[slot])]
        del self._by_id[request_id]
        self._free.append(slot)
        return request_id

    def restore(self, record: Record, slot: int) -> None:
        self.step[slot], self.age[slot], self.stage[slot] = record.step, record.age_tokens, record.stage
        self.r0[slot], self.r1[slot] = record.r0, record.r1
        self.set_posterior(np.array([slot]), record.q[None, :])

    def refined(self, slots: Ages) -> npt.NDArray[np.bool_]:
        """Whether a hidden state of the request has been seen [N]."""
        stage = self.stage[slots]
        seen: npt.NDArray[np.bool_] = (stage == int(Stage.PREFILL)) | (stage == int(Stage.DECODE))
        return seen

    def is_refined(self, slot: int) -> bool:
        return int(self.stage[slot]) in (Stage.PREFILL, Stage.DECODE)

    def set_posterior(self, slots: Ages, q: Array) -> None:
        """Sets q [N, bins] of requests whose age is already that of q, and what it says."""
        bins = self._artefact.bins
        left = np.maximum(self.cap[slots] - self.age[slots], 1.0)
        self.q[slots] = q
        self.mean[slots] = bins.mean(q, left)
        low, high = self._artefact.manifest.interval_levels
        quantiles = bins.quantiles(q, (low, 0.5, high))
        self.p10[slots], self.median[slots], self.p90[slots] = (np.minimum(each, left) for each in quantiles)

    def predictions(self, step: int, slots: Iterable[int], problems: Iterable[RowProblem] = ()) -> Predictions:
        at = np.fromiter(slots, dtype=np.int64)
        return Predictions(
            step=step,
            handles=self.handle[at],
            ages=self.age[at],
            stages=self.stage[at],
            mean=self.mean[at],
            median=self.median[at],
            p10=self.p10[at],
            p90=self.p90[at],
            initial=np.where(self.r1[at] > 0, self.r1[at], self.r0[at]),
            problems=tuple(problems),
        )

    def records(self, slots: Iterable[int]) -> Records:
        at = np.fromiter(slots, dtype=np.int64)
        return Records(
            request_ids=[self._ids[slot] for slot in at.tolist()],
            handles=self.handle[at],
            steps=self.step[at],
            ages=self.age[at],
            stages=self.stage[at],
            r0=self.r0[at],
            r1=self.r1[at],
            mean=self.mean[at],
            median=self.median[at],
            p10=self.p10[at],
            p90=self.p90[at],
            q=self.q[at],
            model=self._artefact.bins_name,
        )

    def _grow(self) -> None:
        old = len(self._ids)
        self._ids += [""] * old
        self._free = list(range(old, 2 * old))
        for name in ("handle", "step", "age", "stage", "cap", "r0", "r1", "mean", "median", "p10", "p90", "q"):
            array = getattr(self, name)
            setattr(self, name, np.concatenate([array, np.zeros_like(array)]))
