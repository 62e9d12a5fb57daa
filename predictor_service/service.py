"""The gRPC face of the predictor. Messages are translated by `wire`; nothing is computed here."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc

from predictor_service import metrics, wire
from predictor_service.admission import Admission
from predictor_service.arms import Arms
from predictor_service.artefact import Artefact
from predictor_service.availability import Availability
from predictor_service.canary import Canary
from predictor_service.catalogue import Catalogue
from predictor_service.engine import Engine, Stream
from predictor_service.engines import Engines
from predictor_service.journal import Answered, Journal
from predictor_service.settings import PredictorSettings
from predictor_service.stateless import predict
from predictor_service.store import Store, StoreUnavailable
from predictor_service.writer import Writer
from sidecar import log
from sidecar.errors import InvalidField, Refused, abort
from sidecar.stream_age import announce
from sidecar.tracing import Span, Tracing
from trail.v1 import engine_pb2, predictor_pb2, predictor_pb2_grpc

Context = Any

# Of a file that travels in parts; gRPC's clients take messages of 4 MiB at most, unless told otherwise.
PART_BYTES = 1 << 20


class PredictorService(predictor_pb2_grpc.PredictorServiceServicer):
    """Serves trail.v1.PredictorService."""

    def __init__(
        self,
        settings: PredictorSettings,
        catalogue: Catalogue,
        canary: Canary,
        arms: Arms,
        journal: Journal,
        engines: Engines,
        store: Store,
        availability: Availability,
        tracing: Tracing,
        admission: Admission,
    ) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._canary = canary
        self._arms = arms
        self._journal = journal
        self._engines = engines
        self._store = store
        self._availability = availability
        self._tracing = tracing
        self._admission = admission

    async def StreamPredict(self, _: Any, context: Context) -> None:  # type: ignore[override]
        """Pumps messages until the client or somebody else (a newer stream, the store, SIGTERM) ends it."""
        stream = Stream()
        pump = asyncio.create_task(self._pump(context, stream))
        # What it meets once somebody has ended the stream is nobody's business.
        pump.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            ends: set[asyncio.Future[Any]] = {pump, stream.ended}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            # Where both are over, the pump has met what somebody's ending of the stream has left.
            if stream.ended.done():
                raise stream.ended.result()
            await pump
        except (InvalidField, Refused) as error:
            await abort(context, error)
        finally:
            pump.cancel()
            # Its client may have hung up just when it was writing, and nobody asks any more.
            pump.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            self._engines.close(stream)

    async def _pump(self, context: Context, stream: Stream) -> None:
        first = await context.read()
        if first is grpc.aio.EOF:
            return
        await announce(context, self._settings.max_connection_age_s)
        if first.WhichOneof("message") != "open":
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, "the first message must be `open`")
        engine = self._engines.admit(wire.engine_id(first.open.engine_id))
        log.of_engine(engine.engine_id)
        artefact = self._artefact_for(engine, first.open)
        await context.write(await self._open(engine, stream, artefact, first.open))
        self._journal.opened(engine.engine_id, artefact, _names(first.open.requests))
        newest = 0
        while (message := await context.read()) is not grpc.aio.EOF:
            if message.WhichOneof("message") != "step":
                raise Refused(grpc.StatusCode.FAILED_PRECONDITION, "only steps may follow `open`")
            # Between two steps an engine goes over to an artefact that replaced its own.
            artefact = self._artefact_for(engine, first.open)
            self._engines.switch(engine, stream, artefact)
            traceparent = message.step.traceparent
            span = self._tracing.follow("predict", traceparent) if traceparent else None
            with log.within(span):
                answer = await self._step(engine, stream, first.open, message.step, span)
            await context.write(predictor_pb2.StreamPredictResponse(predictions=answer))
            if span is not None:
                span.end()
            # A repeated or an old step changed nothing, so it is nothing to note.
            if message.step.step > newest:
                newest = message.step.step
                self._note(engine.engine_id, artefact, message.step, answer)

    def _artefact_for(self, engine: Engine, opened: predictor_pb2.OpenPredict) -> Artefact:
        own = self._canary.artefact_for(engine.engine_id, opened.model, opened.projection)
        return self._arms.artefact_for(engine.engine_id, own, opened.projection)

    async def _open(
        self, engine: Engine, stream: Stream, artefact: Artefact, message: predictor_pb2.OpenPredict
    ) -> predictor_pb2.StreamPredictResponse:
        wire.epoch_text(message.epoch)
        wire.check_layout(message, artefact)
        wire.check_counts(message.requests, (), self._settings.max_requests_per_engine, field="open.requests")
        declared = wire.declarations(message.requests, field="open.requests")
        writer = Writer(self._store, self._availability, engine.engine_id, message.epoch)
        predictions, restored = await engine.open(stream, writer, artefact, declared, message.projection)
        self._engines.measure()
        opened = predictor_pb2.PredictOpened(
            epoch=message.epoch, model=wire.model(artefact), restored=restored, predictions=predictions
        )
        return predictor_pb2.StreamPredictResponse(opened=opened)

    async def _step(
        self,
        engine: Engine,
        stream: Stream,
        opened: predictor_pb2.OpenPredict,
        message: predictor_pb2.PredictStep,
        span: Span | None,
    ) -> predictor_pb2.StepPredictions:
        begun_s = time.perf_counter()
        if message.epoch != opened.epoch:
            raise Refused(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"step.epoch: {message.epoch.incarnation}:{message.epoch.counter}, "
                f"but the stream was opened with {wire.epoch_text(opened.epoch)}",
            )
        most = self._settings.max_rows_per_step
        living = self._settings.max_requests_per_engine
        wire.check_counts(message.declared, message.finished, living, field="step.finished")
        step = wire.step(message, dim=opened.dim, max_rows=most, projection=opened.projection)
        self._admission.took(step.rows)
        metrics.STEP_SECONDS.labels("read").observe(time.perf_counter() - begun_s)
        if span is not None:
            span.child("read", begun_s).end()
        predictions = await engine.step(stream, step, span)
        self._engines.measure()
        return predictions

    def _note(
        self,
        engine_id: str,
        artefact: Artefact,
        step: predictor_pb2.PredictStep,
        answer: predictor_pb2.StepPredictions,
    ) -> None:
        """For the live figures, after the answer has gone out."""
        answered = Answered(answer.handles, answer.ages, answer.stages, answer.median, answer.p10, answer.p90)
        self._journal.stepped(engine_id, artefact, _names(step.declared), answered, step.finished)

    async def Predict(self, request: predictor_pb2.PredictRequest, context: Context) -> predictor_pb2.PredictResponse:
        remaining_s = context.time_remaining()
        if remaining_s is not None and remaining_s <= 0:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed before work began")
        try:
            artefact = self._catalogue.get(request.model)
            living, told = self._settings.max_requests_per_engine, request.step
            wire.check_counts(told.declared, told.finished, living, field="step.finished")
            step = wire.step(request.step, dim=artefact.manifest.dim, max_rows=self._settings.max_rows_per_step)
            found = await predict(artefact, step, max_requests=self._settings.max_requests_per_engine)
        except (InvalidField, Refused) as error:
            await abort(context, error)
        return predictor_pb2.PredictResponse(predictions=wire.predictions(found, request.step.epoch))

    async def PutPrediction(
        self, request: predictor_pb2.PutPredictionRequest, context: Context
    ) -> predictor_pb2.PutPredictionResponse:
        try:
            wire.check_put(request)
            engine = self._engines.get(wire.engine_id(request.engine_id))
            if engine is None or not await engine.put(
                request.request_id, request.output_tokens, request.standard_error_tokens
            ):
                raise Refused(
                    grpc.StatusCode.NOT_FOUND,
                    f"request_id: {request.request_id!r} is not alive on engine {request.engine_id!r} here",
                )
        except (InvalidField, Refused) as error:
            await abort(context, error)
        return predictor_pb2.PutPredictionResponse()

    async def Forget(self, request: predictor_pb2.ForgetRequest, context: Context) -> predictor_pb2.ForgetResponse:
        try:
            engine = self._engines.get(wire.engine_id(request.engine_id))
            wire.check_counts((), request.request_ids, self._settings.max_requests_per_engine, field="request_ids")
            served = None if engine is None else await engine.forget(request.request_ids)
            if served is None:
                served = await self._store.forget(request.engine_id, request.request_ids)
        except (InvalidField, Refused) as error:
            await abort(context, error)
        except StoreUnavailable as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"store: {error}")
        return predictor_pb2.ForgetResponse(forgotten=served or 0)

    async def GetModel(
        self, request: predictor_pb2.GetModelRequest, context: Context
    ) -> predictor_pb2.GetModelResponse:
        try:
            artefact = self._catalogue.get(request.name)
        except Refused as error:
            await abort(context, error)
        return predictor_pb2.GetModelResponse(model=wire.model(artefact))

    async def GetProjection(
        self, request: predictor_pb2.GetProjectionRequest, context: Context
    ) -> AsyncIterator[predictor_pb2.GetProjectionResponse]:
        try:
            artefact = self._catalogue.get(request.name)
            if artefact.projected is None:
                text = f"model {artefact.name!r} has no projection (`trail train split` makes one)"
                raise Refused(grpc.StatusCode.FAILED_PRECONDITION, text)
        except Refused as error:
            await abort(context, error)
        content = artefact.projected.content
        for start in range(0, len(content), PART_BYTES):
            yield predictor_pb2.GetProjectionResponse(content=content[start : start + PART_BYTES])

    async def ListModels(
        self, request: predictor_pb2.ListModelsRequest, context: Context
    ) -> predictor_pb2.ListModelsResponse:
        models = [wire.model(self._catalogue.get(name)) for name in self._catalogue.names]
        return predictor_pb2.ListModelsResponse(models=models)


def _names(declared: Iterable[engine_pb2.RequestDeclaration]) -> list[tuple[int, str]]:
    return [(declaration.handle, declaration.request_id) for declaration in declared]
