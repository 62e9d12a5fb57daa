import numpy as np
import pytest

from sidecar import vectors
from sidecar.errors import InvalidField
from trail.v1 import engine_pb2


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (engine_pb2.DTYPE_FLOAT16, 1e-3),
        (engine_pb2.DTYPE_BFLOAT16, 1e-2),
        (engine_pb2.DTYPE_FLOAT32, 0.0),
    ],
)
def test_what_is_packed_comes_back(dtype: engine_pb2.Dtype.ValueType, tolerance: float) -> None:
    matrix = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    back = vectors.unpack(vectors.pack(matrix, dtype), field="last")
    assert back.shape == (3, 5)
    np.testing.assert_allclose(back.astype(np.float32), matrix, rtol=tolerance)


def test_bfloat16_rounds_to_nearest_even_and_keeps_what_is_not_finite() -> None:
    torch = pytest.importorskip("torch")
    matrix = np.array([[1.00390625, 1.01171875, -3.1415926, np.nan, np.inf, -np.inf, 0.0]], dtype=np.float32)
    back = vectors.unpack(vectors.pack(matrix, engine_pb2.DTYPE_BFLOAT16), field="last")
    np.testing.assert_array_equal(back, torch.from_numpy(matrix).bfloat16().float().numpy())


def test_a_wrong_number_of_bytes_is_refused_naming_the_field() -> None:
    message = engine_pb2.Vectors(data=b"\0" * 7, dtype=engine_pb2.DTYPE_FLOAT16, rows=1, dim=4)
    with pytest.raises(InvalidField, match=r"step\.decodes\.last\.data: 7 bytes"):
        vectors.unpack(message, field="step.decodes.last")


def test_a_missing_dtype_is_refused_naming_the_field() -> None:
    with pytest.raises(ValueError, match=r"last\.dtype"):
        vectors.unpack(engine_pb2.Vectors(rows=0, dim=0), field="last")
