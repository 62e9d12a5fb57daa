"""Packed matrices of the contract (`trail.v1.Vectors`) as numpy arrays and back."""

from typing import Any

import numpy as np
import numpy.typing as npt

from sidecar.errors import InvalidField
from trail.v1 import engine_pb2

Matrix = npt.NDArray[Any]

_WIRE_DTYPES: dict[int, np.dtype[Any]] = {
    engine_pb2.DTYPE_FLOAT16: np.dtype("<f2"),
    engine_pb2.DTYPE_BFLOAT16: np.dtype("<u2"),
    engine_pb2.DTYPE_FLOAT32: np.dtype("<f4"),
}


def unpack(vectors: engine_pb2.Vectors, *, field: str) -> Matrix:
    """The matrix [rows, dim] of a message: float16 or float32 as sent, bfloat16 widened to float32.

    Without a copy where the dtype allows, so the result may be read-only.
    Raises InvalidField, naming `field`, when dtype, rows, dim and the number of bytes do not agree.
    """
    dtype = _WIRE_DTYPES.get(vectors.dtype)
    if dtype is None:
        raise InvalidField(f"{field}.dtype", f"{vectors.dtype} is not float16, bfloat16 or float32")
    expected_bytes = vectors.rows * vectors.dim * dtype.itemsize
    data = vectors.data  # Each access makes a copy.
    if len(data) != expected_bytes:
        raise InvalidField(
            f"{field}.data",
            f"{len(data)} bytes, but {vectors.rows} rows of dim {vectors.dim} take {expected_bytes}",
        )
    matrix = np.frombuffer(data, dtype=dtype).reshape(vectors.rows, vectors.dim)
    return _widen(matrix) if vectors.dtype == engine_pb2.DTYPE_BFLOAT16 else matrix


def pack(array: Matrix, dtype: engine_pb2.Dtype.ValueType) -> engine_pb2.Vectors:
    """A message of `array` [rows, dim] in `dtype`; bfloat16 is rounded to nearest even."""
    if array.ndim != 2:
        raise InvalidField("array", f"{array.ndim} dimensions instead of [rows, dim]")
    if dtype not in _WIRE_DTYPES:
        raise InvalidField("dtype", f"{dtype} is not float16, bfloat16 or float32")
    bits = _narrow(array) if dtype == engine_pb2.DTYPE_BFLOAT16 else array.astype(_WIRE_DTYPES[dtype])
    rows, dim = array.shape
    return engine_pb2.Vectors(data=bits.tobytes(), dtype=dtype, rows=rows, dim=dim)


def _widen(bits: Matrix) -> Matrix:
    """bfloat16 is the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _narrow(array: Matrix) -> Matrix:
    values = np.ascontiguousarray(array, dtype=np.float32)
    bits = values.view(np.uint32).astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    # Rounding must not turn a NaN with a small payload into an infinity.
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded).astype("<u2")
