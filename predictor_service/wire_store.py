"""Records as the store holds them (`trail.v1.StoredPosterior`)."""

import numpy as np

from predictor_service.artefact import Artefact
from predictor_service.step import Record, Stage
from trail.v1 import predictor_pb2, state_pb2


def pack(record: Record) -> bytes:
    """The value of the record's field in the store."""
    return state_pb2.StoredPosterior(
        handle=record.handle,
        step=record.step,
        age_tokens=record.age_tokens,
        stage=predictor_pb2.Stage.ValueType(record.stage),
        r0=record.r0,
        r1=record.r1,
        mean=record.mean,
        median=record.median,
        p10=record.p10,
        p90=record.p90,
        posterior=record.q.tolist(),
        model=record.model,
    ).SerializeToString()


def unpack(request_id: str, value: bytes, artefact: Artefact) -> Record | None:
    """What was stored; None where it is not usable with this artefact (another model's, or damaged)."""
    try:
        message = state_pb2.StoredPosterior.FromString(value)
        stage = Stage(message.stage)
    except Exception:  # protobuf's DecodeError, or a stage of a later release: the record is disposable.
        return None
    q = np.array(message.posterior, dtype=np.float64)
    if message.model != artefact.bins_name or q.shape != (len(artefact.bins),):
        return None
    if not (np.isfinite(q).all() and (q >= 0).all() and q.sum() > 0):
        return None
    return Record(
        request_id=request_id,
        handle=message.handle,
        step=message.step,
        age_tokens=message.age_tokens,
        stage=stage,
        r0=message.r0,
        r1=message.r1,
        mean=message.mean,
        median=message.median,
        p10=message.p10,
        p90=message.p90,
        q=q / q.sum(),
        model=message.model,
    )
