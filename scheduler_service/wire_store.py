"""What the predictor service stored and published, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from google.protobuf.message import DecodeError

from scheduler_service.messages import Epoch, Predictions, PublishedMessage, Snapshot
from scheduler_service.view import Floats
from trail.v1 import predictor_pb2, state_pb2

_PROMPT, _PREFILL, _DECODE = 1, 2, 3
# An external prediction is an r0 like any other.
_STAGE = {predictor_pb2.STAGE_EXTERNAL: _PROMPT}


class Unreadable(ValueError):
    """A message on the predictions channel that is not one."""


def published(data: bytes) -> PublishedMessage:
    """A message of the predictions channel. Raises Unreadable."""
    try:
        message = state_pb2.PublishedPredictions.FromString(data)
    except DecodeError as error:
        raise Unreadable(str(error)) from None
    rows = message.predictions
    columns = (rows.ages, rows.stages, rows.mean, rows.median, rows.p10, rows.p90, rows.initial)
    if any(len(column) != len(rows.handles) for column in columns):
        raise Unreadable("arrays differ in length")
    stages = np.array([_STAGE.get(stage, stage) for stage in rows.stages], dtype=np.int64)
    initial = _floats(rows.initial)
    return PublishedMessage(
        Epoch(message.epoch.incarnation, message.epoch.counter),
        message.number,
        np.array(rows.handles, dtype=np.uint64),
        Predictions(
            ages=np.array(rows.ages, dtype=np.int64),
            stages=stages,
            mean=_floats(rows.mean),
            median=_floats(rows.median),
            p10=_floats(rows.p10),
            p90=_floats(rows.p90),
            r0=np.where(stages <= _PROMPT, initial, 0.0),
            r1=np.where(stages > _PROMPT, initial, 0.0),
        ),
        message.traceparent,
    )


def snapshot(fields: Mapping[bytes, bytes]) -> Snapshot:
    """The whole posterior hash; records that cannot be read are counted and left out."""
    records: dict[str, state_pb2.StoredPosterior] = {}
    for request_id, data in fields.items():
        try:
            records[request_id.decode()] = state_pb2.StoredPosterior.FromString(data)
        except (DecodeError, UnicodeDecodeError):
            continue
    rows = list(records.values())
    return Snapshot(
        tuple(records),
        Predictions(
            ages=np.array([row.age_tokens for row in rows], dtype=np.int64),
            stages=np.array([_STAGE.get(row.stage, row.stage) for row in rows], dtype=np.int64),
            mean=_floats([row.mean for row in rows]),
            median=_floats([row.median for row in rows]),
            p10=_floats([row.p10 for row in rows]),
            p90=_floats([row.p90 for row in rows]),
            r0=_floats([row.r0 for row in rows]),
            r1=_floats([row.r1 for row in rows]),
        ),
        unreadable=len(fields) - len(records),
    )


def _floats(values: Sequence[float]) -> Floats:
    return np.array(values, dtype=np.float64)
