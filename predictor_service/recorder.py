"""Records what streams send, for training: a thread behind a bounded queue, which no step ever waits for."""

import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import structlog

from predictor_service import metrics
from predictor_service.npz import save_npz
from predictor_service.recording import Origin, Recording, declared_bytes, file_name
from predictor_service.step import Declaration, Step

_LOOK_S = 1.0
_CLOSE_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class RecorderSettings:
    folder: Path
    every: int = 1
    """One request in this many is recorded, chosen by a hash of its id."""
    max_bytes: int = 10 << 30
    """Of all recordings in the folder, those of earlier runs included."""
    queue_bytes: int = 64 << 20
    """What may wait for the thread; more is dropped and counted."""
    file_bytes: int = 16 << 20
    file_s: float = 60.0
    """A file is written once it has `file_bytes`, or its oldest row is this old."""


@dataclass(frozen=True)
class _Opened:
    origin: Origin
    declared: Sequence[Declaration]


@dataclass(frozen=True)
class _Stepped:
    engine_id: str
    step: Step
    size_bytes: int
    after_gap: bool
    """Something before it was dropped: a declaration, or the end of a request whose handle may be in use again."""


@dataclass(frozen=True)
class _Ended:
    engine_id: str


class _Signal(Enum):
    IDLE = "nothing came for a while"
    CLOSE = "nothing will come"


_Item = _Opened | _Stepped | _Ended | _Signal


class Recorder:
    """`open`, `step` and `end` are called by the streams, on one thread, and return at once.

    What is kept between two files is that of open streams alone, however many engines come and go.
    """

    def __init__(self, settings: RecorderSettings) -> None:
        self._settings = settings
        self._queue: queue.Queue[_Item] = queue.Queue()
        self._queued_bytes = 0  # written by the streams' thread only
        self._handled_bytes = 0  # written by the recorder's thread only
        self._gaps: set[str] = set()
        self._recordings: dict[str, Recording] = {}
        self._written_bytes = 0
        self._active = True
        self._log = structlog.get_logger("recorder")
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        metrics.RECORDING.set(1)
        self._thread.start()

    @property
    def active(self) -> bool:
        """False once recording has stopped, for good."""
        return self._active

    def open(self, origin: Origin, declared: Sequence[Declaration]) -> None:
        """A stream of the engine begins; exactly ``declared`` live. Projected rows teach nothing and are left out."""
        if origin.projection:
            self.end(origin.engine_id)
            text = "not recorded: the engine sends projected rows; start it with `trail serve --rows hidden`"
            self._log.warning(text, engine=origin.engine_id)
        elif self._active:
            self._gaps.discard(origin.engine_id)
            self._queue.put_nowait(_Opened(origin, declared))

    def step(self, engine_id: str, step: Step) -> None:
        """A step that was applied; dropped where the thread is too far behind."""
        if not self._active or step.projection:
            return
        size_bytes = step.prompts.hidden.nbytes + step.decodes.hidden.nbytes + declared_bytes(step.declared)
        if self._queued_bytes - self._handled_bytes + size_bytes > self._settings.queue_bytes:
            if step.declared or len(step.finished):
                self._gaps.add(engine_id)
            metrics.RECORD_DROPPED_ROWS.inc(step.rows)
            return
        self._queued_bytes += size_bytes
        self._queue.put_nowait(_Stepped(engine_id, step, size_bytes, engine_id in self._gaps))
        self._gaps.discard(engine_id)

    def end(self, engine_id: str) -> None:
        """The engine's stream is over; the next one declares anew what lives."""
        if self._active:
            self._gaps.discard(engine_id)
            self._queue.put_nowait(_Ended(engine_id))

    def close(self) -> None:
        """Writes what is left; waits at most ten seconds for it."""
        self._queue.put_nowait(_Signal.CLOSE)
        self._thread.join(_CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        try:
            # Hidden states and prompts: for nobody else.
            self._settings.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._written_bytes = sum(path.stat().st_size for path in self._settings.folder.rglob("*.npz"))
            self._record()
        except _Full as full:
            self._stop(str(full))
        except Exception as error:  # whatever it is, predictions go on
            self._stop(f"{type(error).__name__}: {error}")

    def _record(self) -> None:
        item: _Item = _Signal.IDLE
        while item is not _Signal.CLOSE:
            item = self._next()
            if isinstance(item, _Opened):
                self._begin(item)
            elif isinstance(item, _Stepped):
                self._take(item)
            elif isinstance(item, _Ended):
                self._end(item.engine_id)
            self._write_if_due(everything=item is _Signal.CLOSE)

    def _next(self) -> _Item:
        try:
            return self._queue.get(timeout=_LOOK_S)
        except queue.Empty:
            return _Signal.IDLE

    def _begin(self, item: _Opened) -> None:
        self._end(item.origin.engine_id)
        recording = Recording(item.origin, self._settings.every)
        recording.declare(item.declared)
        self._recordings[item.origin.engine_id] = recording

    def _end(self, engine_id: str) -> None:
        recording = self._recordings.pop(engine_id, None)
        if recording is not None and recording.size_bytes:
            self._write(recording)

    def _take(self, item: _Stepped) -> None:
        recording = self._recordings.get(item.engine_id)
        if recording is None:  # a step that its stream's end overtook
            metrics.RECORD_DROPPED_ROWS.inc(item.step.rows)
        else:
            if item.after_gap:
                recording.living.clear()
            metrics.RECORDED_ROWS.inc(recording.add(item.step))
        self._handled_bytes += item.size_bytes

    def _write_if_due(self, *, everything: bool) -> None:
        oldest_s = time.monotonic() - self._settings.file_s
        for recording in self._recordings.values():
            is_due = everything or recording.size_bytes >= self._settings.file_bytes or recording.since_s <= oldest_s
            if recording.size_bytes and is_due:
                self._write(recording)

    def _write(self, recording: Recording) -> None:
        if self._written_bytes + recording.size_bytes > self._settings.max_bytes:
            raise _Full(f"record_max_bytes {self._settings.max_bytes} reached")
        path = self._settings.folder / file_name(recording.origin)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        save_npz(path, recording.take(), compressed=False)
        self._written_bytes += path.stat().st_size

    def _stop(self, reason: str) -> None:
        self._active = False
        metrics.RECORDING.set(0)
        self._recordings.clear()
        while not self._queue.empty():
            self._queue.get_nowait()
        self._log.error("recording stopped", folder=str(self._settings.folder), reason=reason)


class _Full(Exception):
    """The recordings have reached their limit."""
