"""Records as the store holds them (`trail.v1.StoredPosterior`)."""

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from predictor_service.artefact import Artefact
from predictor_service.step import Record, Records, Stage
from trail.v1 import state_pb2

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
"""Wire types of protobuf."""
_FLOATS = ("r0", "r1", "mean", "median", "p10", "p90")
_AGE_BYTES, _STEP_BYTES = 5, 10


def pack(records: Records) -> dict[str, bytes]:
    """Request id to the value of its field in the store.

    One message a request costs far more in protobuf's classes than in one array of structures: so every message is
    given the same size, by varints padded to their longest, and all are written at once.
    """
    template = _template(records.q.shape[1], records.model)
    rows = np.repeat(template, len(records))
    rows["handle"], rows["stage"] = records.handles, records.stages
    rows["step"], rows["age_tokens"] = _varints(records.steps, _STEP_BYTES), _varints(records.ages, _AGE_BYTES)
    for name in _FLOATS:
        rows[name] = getattr(records, name)
    rows["posterior"] = records.q
    content, size = rows.tobytes(), template.itemsize
    return {name: content[at : at + size] for name, at in zip(records.request_ids, range(0, len(content), size))}  # noqa: B905


@lru_cache(maxsize=64)
def _template(bins: int, model: str) -> npt.NDArray[Any]:
    """One message [1] with everything but its values."""
    name = model.encode()
    layout: list[tuple[Any, ...]] = []
    fixed: dict[str, bytes] = {}

    def field(label: str, wire_type: int, value: Any, *more: Any, prefix: bytes = b"") -> None:
        number = state_pb2.StoredPosterior.DESCRIPTOR.fields_by_name[label].number
        tag = bytes([number << 3 | wire_type]) + prefix
        layout.append((f"{label}.tag", f"V{len(tag)}"))
        layout.append((label, value, *more))
        fixed[f"{label}.tag"] = tag

    field("handle", _FIXED64, "<u8")
    field("step", _VARINT, np.uint8, _STEP_BYTES)
    field("age_tokens", _VARINT, np.uint8, _AGE_BYTES)
    field("stage", _VARINT, np.uint8)
    for label in _FLOATS:
        field(label, _FIXED32, "<f4")
    field("posterior", _BYTES, "<f4", bins, prefix=_length(4 * bins))
    field("model", _BYTES, f"V{len(name)}", prefix=_length(len(name)))
    template = np.zeros(1, np.dtype(layout))
    for label, content in {**fixed, "model": name}.items():
        template[label] = np.void(content)
    return template


def _length(size: int) -> bytes:
    return _varints(np.array([size]), _AGE_BYTES).tobytes()


def _varints(values: npt.NDArray[Any], size: int) -> npt.NDArray[np.uint8]:
    """Each of `values` [N] as a varint of `size` bytes [N, size]: seven bits a byte, the high bit set in all but the
    last."""
    shifts = np.arange(0, 7 * size, 7, dtype=np.uint64)
    sevens: npt.NDArray[np.uint8] = (values.astype(np.uint64)[:, None] >> shifts).astype(np.uint8)
    sevens &= np.uint8(0x7F)
    sevens[:, :-1] |= np.uint8(0x80)
    return sevens


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
