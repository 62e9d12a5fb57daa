"""What an engine may do to hidden states before it sends them: a classifier up to its first product.

    y = clip((x - mean) * scale, -limit, limit) @ weight

A row of P values travels instead of one of D, and the classifier's largest product is made where the states lie.
"""

import hashlib
import io
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

ID_DIGITS = 16
_TYPES = {"mean": np.float32, "scale": np.float32, "limit": np.float32, "weight": np.float16}


@dataclass(frozen=True, eq=False)
class Projection:
    """From D values of the tapped layers to P."""

    mean: npt.NDArray[np.float32]
    """[D]."""
    scale: npt.NDArray[np.float32]
    """[D]; one over the standard deviation."""
    limit: npt.NDArray[np.float32]
    """[], in standard deviations; what lies beyond is cut."""
    weight: npt.NDArray[np.float16]
    """[D, P]."""

    @property
    def dim(self) -> int:
        """P."""
        return int(self.weight.shape[1])

    def __call__(self, hidden: npt.NDArray[Any]) -> npt.NDArray[np.float16]:
        """[N, P] of hidden states [N, D], computed in float32: what an engine is measured against."""
        standard = np.clip((hidden.astype(np.float32) - self.mean) * self.scale, -self.limit, self.limit)
        with np.errstate(over="ignore"):
            return np.asarray(standard @ self.weight.astype(np.float32), dtype=np.float16)

    def pack(self) -> bytes:
        """The file, npz; equal projections make equal files."""
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, **{each.name: getattr(self, each.name) for each in fields(self)})
        return file.getvalue()


def unpack(content: bytes) -> Projection:
    """The projection in a file. Raises ValueError for what is none."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in _TYPES}
    except Exception as error:  # Broken archives raise half a dozen kinds.
        raise ValueError(f"not a projection: {type(error).__name__}: {error}") from error
    for name, dtype in _TYPES.items():
        if arrays[name].dtype != dtype:
            raise ValueError(f"{name}: {arrays[name].dtype} instead of {np.dtype(dtype)}")
    shapes = {name: array.shape for name, array in arrays.items()}
    weight = shapes["weight"]
    expected = {"mean": weight[:1], "scale": weight[:1], "limit": (), "weight": weight}
    if len(weight) != 2 or shapes != expected:
        raise ValueError(f"shapes {shapes} do not fit together")
    return Projection(**arrays)


def id_of(content: bytes) -> str:
    """How a file of a projection is called: the first digits of its SHA-256."""
    return hashlib.sha256(content).hexdigest()[:ID_DIGITS]
