"""One epoch's hold on an engine in the store."""

from collections.abc import Sequence

import grpc

from predictor_service import metrics, wire, wire_store
from predictor_service.availability import Availability
from predictor_service.step import Applied
from predictor_service.store import Claim, Fenced, Store, StoreUnavailable
from sidecar.errors import Refused
from trail.v1 import engine_pb2, predictor_pb2, state_pb2


class Writer:
    """Commits under one epoch; it claims once, when its stream opens, and never again.

    Once the store was gone, nothing more is written under this epoch: what was missed cannot be told
    from what was not. The agent opens anew, and the claim of the new epoch starts from a clean slate.
    """

    def __init__(self, store: Store, availability: Availability, engine_id: str, epoch: engine_pb2.Epoch) -> None:
        self.epoch = epoch
        self._store = store
        self._availability = availability
        self._engine_id = engine_id
        self._number = 0
        self.degraded = not availability.available

    @property
    def stranded(self) -> bool:
        """The store is there again, but not for this epoch."""
        return self.degraded and self._availability.available

    async def claim(self, living: Sequence[str]) -> Claim | None:
        """Makes the epoch the owner. None while the store is gone. Raises Refused (ABORTED)."""
        if self.degraded:
            return None
        try:
            return await self._store.claim(self._engine_id, wire.epoch_text(self.epoch), living)
        except StoreUnavailable as error:
            self._lose(error)
            return None
        except Fenced as error:
            raise self._refusal(error) from None

    async def commit(self, applied: Applied, traceparent: str = "") -> predictor_pb2.StepPredictions:
        """Stores and publishes what a step did, and returns its predictions as they go out, flagged
        when they could not be stored; `traceparent` is published with them. Raises Refused (ABORTED) when
        another epoch owns the engine."""
        message = wire.predictions(applied.predictions, self.epoch)
        if applied.records or applied.gone:
            await self._write(applied, message, traceparent)
        message.degraded = self.degraded
        return message

    async def _write(self, applied: Applied, message: predictor_pb2.StepPredictions, traceparent: str) -> None:
        if self.degraded:
            return
        published = state_pb2.PublishedPredictions(
            epoch=self.epoch, number=self._number + 1, predictions=message, traceparent=traceparent
        )
        records = wire_store.pack(applied.records) if applied.records else {}
        try:
            await self._store.commit(
                self._engine_id,
                wire.epoch_text(self.epoch),
                records,
                applied.gone,
                published.SerializeToString(),
                self._number + 1,
            )
        except StoreUnavailable as error:
            self._lose(error)
        except Fenced as error:
            metrics.FENCED.inc()
            raise self._refusal(error) from None
        else:
            self._number += 1

    def _lose(self, error: StoreUnavailable) -> None:
        self.degraded = True
        self._availability.lost(str(error))

    def _refusal(self, fenced: Fenced) -> Refused:
        text = f"epoch {wire.epoch_text(self.epoch)} of engine {self._engine_id} is fenced: {fenced}"
        return Refused(grpc.StatusCode.ABORTED, text)
