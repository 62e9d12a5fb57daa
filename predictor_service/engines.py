"""All engines that this process serves or served not long ago."""

from typing import NoReturn

import grpc
import structlog

from predictor_service import metrics
from predictor_service.admission import Admission
from predictor_service.artefact import Artefact
from predictor_service.engine import STORE_IS_BACK, Engine, Stream
from predictor_service.recorder import Recorder
from predictor_service.switching import switched
from sidecar.errors import Refused
from sidecar.turns import Turns


class Engines:
    """Engines by id: at most `most` with an open stream, and as many more whose posteriors are kept."""

    def __init__(
        self, *, most: int, max_requests: int, recorder: Recorder | None = None, admission: Admission | None = None
    ) -> None:
        self._most = most
        self._admission = admission or Admission()
        self._max_requests = max_requests
        self._recorder = recorder
        self._engines: dict[str, Engine] = {}
        self._turns = Turns()
        self._log = structlog.get_logger("engines")

    def get(self, engine_id: str) -> Engine | None:
        return self._engines.get(engine_id)

    @property
    def streaming(self) -> list[str]:
        """Ids of those with an open stream."""
        return [engine_id for engine_id, engine in self._engines.items() if engine.stream]

    def admit(self, engine_id: str) -> Engine:
        """The engine, made if need be. Raises Refused (RESOURCE_EXHAUSTED)."""
        engine = self._engines.pop(engine_id, None)
        if engine is None or engine.stream is None:
            self._check_room(engine)
            engine = engine or Engine(engine_id, max_requests=self._max_requests, recorder=self._recorder)
        # Last in the order of use; the first idle ones are dropped.
        self._engines[engine_id] = engine
        return engine

    def switch(self, engine: Engine, stream: Stream, artefact: Artefact) -> None:
        """Has the engine's next step use `artefact`. Called between two steps of `stream`, by whom it serves:
        while that stream holds the engine, nobody else computes on its session."""
        session = engine.session
        if engine.stream is stream and session is not None and session.artefact is not artefact:
            engine.session = switched(session, artefact, max_requests=self._max_requests)
            metrics.SWITCHES.inc()

    def shed(self) -> None:
        """Ends the streams of the newest engines where this replica stays over its limits. They are strangers from
        then on: what is known of their requests lies in the store, for whichever replica takes them."""
        held = ((engine, engine.stream) for engine in self._engines.values() if engine.stream)
        newest_first = sorted(held, key=lambda each: each[0].since_s, reverse=True)
        surplus = self._admission.surplus(len(newest_first))
        for engine, stream in newest_first[: surplus.engines]:
            metrics.SHED_STREAMS.labels(surplus.limit).inc()
            self._log.warning("engine sent away", engine=engine.engine_id, reason=surplus.reason)
            del self._engines[engine.engine_id]
            engine.close(stream)
            stream.end(self._refused(f"this replica has too many engines: {surplus.reason}"))

    def end_degraded(self) -> None:
        """The store is back: streams that missed a commit must claim again, which only an open does."""
        for engine in self._engines.values():
            if engine.stream and engine.writer and engine.writer.stranded:
                engine.stream.end(STORE_IS_BACK)

    def end_all(self, reason: Refused) -> None:
        for engine in self._engines.values():
            if engine.stream:
                engine.stream.end(reason)

    def close(self, stream: Stream) -> None:
        for engine in self._engines.values():
            engine.close(stream)
        self.measure()

    def measure(self) -> None:
        streaming = [engine for engine in self._engines.values() if engine.stream]
        metrics.STREAMS.set(len(streaming))
        metrics.POSTERIORS.set(sum(engine.requests for engine in streaming))

    def _refuse(self, limit: str, text: str) -> NoReturn:
        metrics.REFUSED_STREAMS.labels(limit).inc()
        raise self._refused(text)

    def _refused(self, text: str) -> Refused:
        return Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, text, retry_after_ms=self._turns.next_ms())

    def _check_room(self, engine: Engine | None) -> None:
        streaming = len(self.streaming)
        if streaming >= self._most:
            if engine is not None:
                self._engines[engine.engine_id] = engine
            self._refuse("engines", f"{streaming} engines have a stream already (max_engines)")
        # An engine that was served here before is no new load, and nobody else may have room for it.
        if engine is None and (reason := self._admission.refusal(streaming)):
            self._refuse("load", reason)
        idle = [other.engine_id for other in self._engines.values() if other.stream is None]
        for engine_id in idle[: max(0, len(idle) - self._most + 1)]:
            del self._engines[engine_id]
