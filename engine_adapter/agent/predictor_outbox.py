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
    ended: set[int] = field(default_factory=set)
    """The finished, and those that came and ended without the predictor hearing of them: nobody wants their rows."""
    rows: Rows | None = None


class PredictorOutbox:
    """Collects while a stream is open, opening or moving; after a fault it keeps nothing, for opening tells all."""

    def __init__(self, max_rows: int, counters: Counters) -> None:
        self._max_rows = max_rows
        self._counters = counters
        self._collecting = False
        self._waiting = _Waiting()
        self.engine_step = 0

    def start(self) -> None:
        """A stream is being opened: its first message names all that is alive now. Rows that came since the last one
        ended in good order are for this one."""
        self._waiting = _Waiting(rows=self._without_finished())
        self._collecting = True

    def stop(self) -> None:
        """The stream is gone."""
        if self._waiting.rows is not None:
            self._counters.rows_dropped += len(self._waiting.rows.handles)
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
        self._waiting.ended.add(handle)
        if self._waiting.declared.pop(handle, None) is None and self._waiting.reused.pop(handle, None) is None:
            self._waiting.finished[handle] = None

    def rows(self, rows: Rows) -> None:
        """Adds the rows of one step; what they replace is counted as dropped."""
        if not self._collecting:
            self._counters.rows_dropped += len(rows.handles)
            return
        before = len(rows.handles) + (0 if self._waiting.rows is None else len(self._waiting.rows.handles))
        self._waiting.rows = rows if self._waiting.rows is None else row_sets.newest(self._waiting.rows, rows)
        self._counters.rows_dropped += before - len(self._waiting.rows.handles)

    def take(self) -> predictor_pb2.StreamPredictRequest | None:
        """Everything that waits, as one step without its epoch and number; None when nothing does.

        What exceeds the limit of rows waits for the next message. The message is filled in place, which saves
        a copy of its vectors.
        """
        rows = self._without_finished()
        self._waiting.rows = None
        if rows is not None:
            rows, self._waiting.rows = row_sets.split(rows, self._max_rows)
        if rows is None and not self._waiting.declared and not self._waiting.finished:
            return None
        message = predictor_pb2.StreamPredictRequest()
        step = message.step
        step.declared.extend(
            declaration(r, r.age_tokens, len(r.prompt_token_ids)) for r in self._waiting.declared.values()
        )
        step.finished.extend(self._waiting.finished)
        if rows is not None:
            _pack(rows, step)
            self._counters.rows_shipped += len(rows.handles)
            self.engine_step = rows.step
        self._waiting = _Waiting(declared=self._waiting.reused, rows=self._waiting.rows)
        return message

    def _without_finished(self) -> Rows | None:
        rows, gone = self._waiting.rows, self._waiting.ended
        if rows is None or not gone:
            return rows
        kept = row_sets.select(
            rows, [index for index, handle in enumerate(rows.handles.tolist()) if handle not in gone]
        )
        self._counters.rows_dropped += len(rows.handles) - len(kept.handles)
        return kept if len(kept.handles) else None


def _pack(rows: Rows, step: predictor_pb2.PredictStep) -> None:
    is_prompt = rows.ages == 0
    if is_prompt.any():
        prompts, rows = row_sets.select(rows, is_prompt), row_sets.select(rows, ~is_prompt)
        step.prompts.handles.extend(prompts.handles.tolist())
        _set(step.prompts.last, prompts)
    if len(rows.handles):
        step.decodes.handles.extend(rows.handles.tolist())
        step.decodes.ages.extend(rows.ages.tolist())
        _set(step.decodes.last, rows)


def _set(vectors: engine_pb2.Vectors, rows: Rows) -> None:
    vectors.rows, vectors.dim = rows.vectors.shape
    vectors.dtype = engine_pb2.Dtype.ValueType(rows.dtype)
    vectors.data = rows.vectors.tobytes()
