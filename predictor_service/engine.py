"""One engine as this process serves it: its session, and the stream that may change it."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import grpc
import numpy as np
import structlog

from predictor_service import metrics, wire_store
from predictor_service.artefact import Artefact
from predictor_service.bins import Array
from predictor_service.catalogue import same_layout
from predictor_service.recorder import Recorder
from predictor_service.recording import Origin
from predictor_service.session import EngineSession
from predictor_service.step import Applied, Declaration, Predictions, Record, RowProblem, Step
from predictor_service.store import Claim
from predictor_service.switching import switched
from predictor_service.writer import Writer
from sidecar.errors import Refused
from sidecar.tracing import Span
from trail.v1 import predictor_pb2

# Up to here the models take less time than handing the work to a thread and back.
INLINE_ROWS = 64
# What one prompt costs, in rows of hidden states.
ROWS_A_PROMPT = 32

STORE_IS_BACK = Refused(grpc.StatusCode.ABORTED, "the store is back: open again")

T = TypeVar("T")


@dataclass(eq=False)
class Stream:
    """One StreamPredict call; `ended` is set when somebody else wants it to end, with the reason."""

    ended: asyncio.Future[Refused] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def end(self, reason: Refused) -> None:
        if not self.ended.done():
            self.ended.set_result(reason)


class Engine:
    """The newest stream holds the engine; posteriors outlive it, for the agent often opens the next one."""

    def __init__(self, engine_id: str, *, max_requests: int, recorder: Recorder | None = None) -> None:
        self.engine_id = engine_id
        self.since_s = time.monotonic()
        self.stream: Stream | None = None
        self.writer: Writer | None = None
        self.session: EngineSession | None = None
        self._incarnation = 0
        self._max_requests = max_requests
        self._recorder = recorder
        self._turn = asyncio.Lock()
        self._log = structlog.get_logger("engine")

    async def open(
        self,
        stream: Stream,
        writer: Writer,
        artefact: Artefact,
        declared: Sequence[Declaration],
        projection: str = "",
    ) -> tuple[predictor_pb2.StepPredictions, int]:
        """Takes the engine from whoever held it; predictions of all requests, and how many were stored."""
        if self.stream is not None:
            self.stream.end(Refused(grpc.StatusCode.ABORTED, "the engine opened another stream"))
        self.stream = stream
        async with self._turn:
            self._check_holds(stream)
            claim = await writer.claim([declaration.request_id for declaration in declared])
            self._check_holds(stream)
            session = self._session_for(writer, artefact)
            stored = _usable(claim, writer, artefact, declared)
            opened, restored = await compute(lambda: session.open(declared, stored), ROWS_A_PROMPT * len(declared))
            self.session, self.writer, self._incarnation = session, writer, writer.epoch.incarnation
            if self._recorder is not None:
                layers = tuple(artefact.manifest.layers)
                origin = Origin(self.engine_id, self._incarnation, artefact.name, layers, projection)
                self._recorder.open(origin, declared)
            message = await writer.commit(opened)
        if writer.stranded:
            # The store came back while this stream opened without it.
            stream.end(STORE_IS_BACK)
        return message, restored

    async def step(self, stream: Stream, step: Step, span: Span | None = None) -> predictor_pb2.StepPredictions:
        """One engine step, under `span` where it is traced. Raises Refused (ABORTED) when the stream does not hold
        the engine any more."""
        arrived = time.perf_counter()
        async with self._turn:
            session, writer = self._held(stream)
            begun = time.perf_counter()
            fresh = step.number > session.last_step
            applied = await compute(lambda: session.apply(step), step.rows + ROWS_A_PROMPT * len(step.declared))
            if self._recorder is not None and fresh:
                self._recorder.step(self.engine_id, step)
            computed = time.perf_counter()
            for problem in applied.predictions.problems:
                self._tell(session, problem)
            message = await writer.commit(applied, span.traceparent if span is not None else "")
        _measure(step, applied, writer.degraded, (arrived, begun, computed, time.perf_counter()), span)
        return message

    async def put(self, request_id: str, output_tokens: float, standard_error_tokens: float) -> bool:
        """Takes someone else's prediction; False when the request is not served here."""
        async with self._turn:
            if self.stream is None or self.session is None:
                return False
            return self.session.put(request_id, output_tokens, standard_error_tokens)

    async def forget(self, request_ids: Sequence[str]) -> int | None:
        """Drops requests here and in the store; None when the engine is not served here."""
        async with self._turn:
            if self.stream is None or self.session is None or self.writer is None:
                return None
            gone = self.session.forget(request_ids)
            nothing: Predictions = self.session.requests.predictions(0, ())
            await self.writer.commit(Applied(nothing, gone=gone))
            return len(gone)

    def close(self, stream: Stream) -> None:
        """The stream is over; posteriors stay for the next."""
        if self.stream is stream:
            self.stream = None
            if self._recorder is not None:
                self._recorder.end(self.engine_id)

    @property
    def requests(self) -> int:
        return 0 if self.session is None else len(self.session.requests)

    def _session_for(self, writer: Writer, artefact: Artefact) -> EngineSession:
        """The one in memory, if it is of the same engine life; moved to the artefact where that has changed."""
        kept = self.session
        if kept and self._incarnation == writer.epoch.incarnation:
            if kept.artefact is artefact:
                return kept
            if same_layout(kept.artefact, artefact):
                return switched(kept, artefact, max_requests=self._max_requests)
        return EngineSession(artefact, max_requests=self._max_requests)

    def _tell(self, session: EngineSession, problem: RowProblem) -> None:
        """Which request's row could not be used; how many there were is counted."""
        slot = session.requests.slot(problem.handle)
        request_id = None if slot is None else session.requests.request_id(slot)
        status = problem.status.name.lower()
        self._log.debug("row not used", request_id=request_id, status=status, reason=problem.message)

    def _held(self, stream: Stream) -> tuple[EngineSession, Writer]:
        self._check_holds(stream)
        if self.session is None or self.writer is None:
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, "the stream is not open")
        return self.session, self.writer

    def _check_holds(self, stream: Stream) -> None:
        if self.stream is not stream:
            raise Refused(grpc.StatusCode.ABORTED, "the engine opened another stream")


def _usable(
    claim: Claim | None, writer: Writer, artefact: Artefact, declared: Sequence[Declaration]
) -> dict[str, Record]:
    """Stored records that tell about these requests. An id that an earlier life of the engine used for
    another request shows itself by an age that the request has not reached."""
    if claim is None:
        return {}
    same_life = claim.previous_owner.partition(":")[0] == str(writer.epoch.incarnation)
    found: dict[str, Record] = {}
    for declaration in declared:
        value = claim.records.get(declaration.request_id)
        record = None if value is None else wire_store.unpack(declaration.request_id, value, artefact)
        if record is not None and (same_life or record.age_tokens <= declaration.age_tokens):
            found[declaration.request_id] = record
    return found


async def compute(work: Callable[[], T], rows: int) -> T:
    """Runs `work` here where it is short, else in a thread; a cancelled caller still sees it through,
    for arrays that are being written must not be given to the next."""
    if rows <= INLINE_ROWS:
        return work()
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


def _measure(
    step: Step, applied: Applied, degraded: bool, times: tuple[float, float, float, float], span: Span | None
) -> None:
    metrics.STEPS.inc()
    metrics.ROWS.inc(step.rows)
    metrics.PROMPTS.inc(len(step.declared))
    if step.rows:
        metrics.STEP_ROWS.observe(step.rows)
    if applied.records:
        metrics.ENTROPY.observe(_entropy(applied.records.q[step.number % len(applied.records)]))
    metrics.DEGRADED_STEPS.inc(int(degraded))
    for problem in applied.predictions.problems:
        metrics.ROW_ERRORS.labels(problem.status.name.lower()).inc()
    parts = list(zip(("queue", "compute", "store"), times, times[1:], strict=False))
    if applied.model_run is not None:
        begun, ended = applied.model_run
        parts += [("model", begun, ended), ("posterior", ended, times[2])]
    for part, begun, ended in parts:
        metrics.STEP_SECONDS.labels(part).observe(ended - begun)
        if span is not None:
            span.child(part, begun).end(ended)


def _entropy(q: Array) -> float:
    """-sum q log q in nats, of one distribution [B]."""
    certain = q[q > 0]
    return float(-(certain @ np.log(certain)))
