"""The stream to the predictor service: rows out, predictions in, one unanswered message at a time."""

import asyncio

import grpc

from engine_adapter.agent.channel import Channel
from engine_adapter.agent.counters import Counters
from engine_adapter.agent.epochs import EpochMint, StepNumbers
from engine_adapter.agent.hops import Hops
from engine_adapter.agent.link import Link
from engine_adapter.agent.living import LivingRequests
from engine_adapter.agent.prediction_book import PredictionBook
from engine_adapter.agent.predictor_outbox import PredictorOutbox
from engine_adapter.agent.settings import AgentSettings
from engine_adapter.records import Rows
from trail.v1 import engine_pb2, predictor_pb2, predictor_pb2_grpc

_Call = grpc.aio.StreamStreamCall[predictor_pb2.StreamPredictRequest, predictor_pb2.StreamPredictResponse]


class PredictorLink(Link[predictor_pb2.StreamPredictRequest, predictor_pb2.StreamPredictResponse]):
    """Waits for each answer before it sends again: what piles up meanwhile is merged here, where the newest row wins,
    and not queued in a buffer."""

    name = "predictor_link"

    def __init__(
        self,
        channel: Channel,
        settings: AgentSettings,
        epochs: EpochMint,
        ready: asyncio.Event,
        living: LivingRequests,
        book: PredictionBook,
        counters: Counters,
        hops: Hops,
    ) -> None:
        super().__init__(settings, epochs, ready)
        self._channel = channel
        self._stub: predictor_pb2_grpc.PredictorServiceAsyncStub
        self._living, self._book, self._counters, self._hops = living, book, counters, hops
        self._steps = StepNumbers()
        self._epoch = engine_pb2.Epoch()
        self._layout: tuple[int, int] | None = None
        self._answered = asyncio.Event()
        self._awaited_step = 0
        self.outbox = PredictorOutbox(settings.max_rows_per_message, counters)

    def rows(self, rows: Rows) -> None:
        """Rows of one step, of living requests only."""
        self._layout = (rows.dtype, rows.dim)
        self.outbox.rows(rows)
        if self.connected:
            self._hops.read(rows)

    def _call(self) -> _Call:
        self._stub = predictor_pb2_grpc.PredictorServiceStub(self._channel.current())
        return self._stub.StreamPredict(metadata=self._channel.metadata())

    async def _first(self, epoch: engine_pb2.Epoch) -> predictor_pb2.StreamPredictRequest:
        dtype, dim = self._layout or await self._model_layout()
        self._epoch = epoch
        self.outbox.start()
        return predictor_pb2.StreamPredictRequest(
            open=predictor_pb2.OpenPredict(
                engine_id=self._settings.engine_id,
                epoch=epoch,
                model=self._settings.model,
                dtype=engine_pb2.Dtype.ValueType(dtype),
                dim=dim,
                projection=self._settings.projection,
                requests=self._living.declarations(),
            )
        )

    async def _model_layout(self) -> tuple[int, int]:
        """Before the first row, nobody here knows how the engine's rows look: believe the model."""
        request = predictor_pb2.GetModelRequest(name=self._settings.model)
        response = await self._stub.GetModel(request, metadata=self._channel.metadata())
        model = response.model
        return model.dtype, model.projection.dim if self._settings.projection else model.dim

    def _opened(self, response: predictor_pb2.StreamPredictResponse) -> None:
        self._counters.predictor_streams_opened += 1
        self._note(response.opened.predictions)

    async def _send_waiting(self, call: _Call) -> None:
        while (request := self.outbox.take()) is not None:
            step = request.step
            step.epoch.CopyFrom(self._epoch)
            step.step = self._awaited_step = self._steps.next(self.outbox.engine_step)
            self._answered.clear()
            if traceparent := self._hops.sending():
                step.traceparent = traceparent
            async with asyncio.timeout(self._settings.ack_timeout_ms / 1000):
                await call.write(request)
                await self._answered.wait()
            self._hops.answered()

    def _received(self, response: predictor_pb2.StreamPredictResponse) -> None:
        predictions = response.predictions
        self._note(predictions)
        if predictions.step >= self._awaited_step:
            self._answered.set()

    def _closed(self) -> None:
        self.outbox.stop()
        self._hops.cut()

    def _moved(self) -> None:
        self._hops.cut()

    def _note(self, predictions: predictor_pb2.StepPredictions) -> None:
        self._counters.predictions_received += len(predictions.handles)
        self._counters.row_errors += len(predictions.errors)
        self._counters.degraded_answers += predictions.degraded
        for handle, age, mean in zip(predictions.handles, predictions.ages, predictions.mean, strict=True):
            if handle in self._living:
                self._book.note(handle, age, mean)
