"""What waits to be sent to the predictor: the newest row of each request wins, declarations and ends are never lost."""

from dataclasses import dataclass, field

from engine_adapter.agent import rows as row_sets
from engine_adapter.agent.counters import Counters
from engine_adapter.agent.living import declaration
from engine_adapter.records import Arrived, Rows
from trail.v1 import engine_pb2, predictor_pb2


@dataclass(slots=True)
class _Waiting:
    declared: dict[int, Arrived] = field(default_factory=dict)
    reused: dict[int, Arrived] = field(default_factory=dict)
    """Arrivals whose handle is still among the finished: they wait for the message after that."""
    finished: dict[int, None] = field(default_factory=dict)
    rows: Rows | None = None


class PredictorOutbox:
    """Collects while a stream is open or opening; between streams it keeps nothing, for opening tells everything."""

    def __init__(self, max_rows: int, counters: Counters) -> None:
        self._max_rows = max_rows
        self._counters = counters
        self._collecting = False
        self._waiting = _Waiting()
        self.engine_step = 0

    def start(self) -> None:
        """A stream is being opened: its first message names all that is alive now."""
        self._waiting = _Waiting()
        self._collecting = True

    def stop(self) -> None:
        """The stream is gone."""
        if self._waiting.rows is not None:
            self._counters.rows_dropped += row_sets.size(self._waiting.rows)
        self._waiting = _Waiting()
        self._collecting = False

    def arrived(self, request: Arrived) -> None:
        if not self._collecting:
            return
        waiting = self._waiting
        (waiting.reused if request.handle in waiting.finished else waiting.declared)[request.handle] = request

    def finished(self, handle: int) -> None:
        if not self._collecting:
            return
        if self._waiting.declared.pop(handle, None) is None and self._waiting.reused.pop(handle, None) is None:
            self._waiting.finished[handle] = None

    def rows(self, rows: Rows) -> None:
        """Adds the rows of one step; what they replace is counted as dropped."""
        if not self._collecting:
            self._counters.rows_dropped += row_sets.size(rows)
            return
        before = row_sets.size(rows) + (0 if self._waiting.rows is None else row_sets.size(self._waiting.rows))
        self._waiting.rows = rows if self._waiting.rows is None else row_sets.newest(self._waiting.rows, rows)
        self._counters.rows_dropped += before - row_sets.size(self._waiting.rows)

    def take(self) -> predictor_pb2.PredictStep | None:
        """Everything that waits, as one message without epoch and step; None when nothing does.

        What exceeds the limit of rows waits for the next message.
        """
        rows = self._without_finished()
        self._waiting.rows = None
        if rows is not None:
            rows, self._waiting.rows = row_sets.split(rows, self._max_rows)
        if rows is None and not self._waiting.declared and not self._waiting.finished:
            return None
        message = predictor_pb2.PredictStep(
            declared=[declaration(r, r.age_tokens, len(r.prompt_token_ids)) for r in self._waiting.declared.values()],
            finished=list(self._waiting.finished),
        )
        if rows is not None:
            _pack(rows, message)
            self._counters.rows_shipped += row_sets.size(rows)
            self.engine_step = rows.step
        self._waiting = _Waiting(declared=self._waiting.reused, rows=self._waiting.rows)
        return message

    def _without_finished(self) -> Rows | None:
        if self._waiting.rows is None or not self._waiting.finished:
            return self._waiting.rows
        gone = self._waiting.finished
        kept = row_sets.select(
            self._waiting.rows,
            [index for index, handle in enumerate(self._waiting.rows.handles.tolist()) if handle not in gone],
            [index for index, handle in enumerate(self._waiting.rows.prompt_handles.tolist()) if handle not in gone],
        )
        self._counters.rows_dropped += row_sets.size(self._waiting.rows) - row_sets.size(kept)
        return kept if row_sets.size(kept) else None


def _pack(rows: Rows, message: predictor_pb2.PredictStep) -> None:
    if len(rows.prompt_handles):
        message.prompts.CopyFrom(
            predictor_pb2.PromptRows(
                handles=rows.prompt_handles.tolist(),
                last=_vectors(rows.prompt_last.tobytes(), rows.dtype, len(rows.prompt_handles), rows.dim),
                sum=_vectors(rows.prompt_sum.tobytes(), engine_pb2.DTYPE_FLOAT32, len(rows.prompt_handles), rows.dim),
                covered=rows.covered.tolist(),
                total=rows.total.tolist(),
            )
        )
    if len(rows.handles):
        message.decodes.CopyFrom(
            predictor_pb2.DecodeRows(
                handles=rows.handles.tolist(),
                ages=rows.ages.tolist(),
                last=_vectors(rows.vectors.tobytes(), rows.dtype, len(rows.handles), rows.dim),
            )
        )


def _vectors(data: bytes, dtype: int, rows: int, dim: int) -> engine_pb2.Vectors:
    return engine_pb2.Vectors(data=data, dtype=engine_pb2.Dtype.ValueType(dtype), rows=rows, dim=dim)
