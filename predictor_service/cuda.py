"""Runs of a graph over memory that GPU and CPU both see: kernels read the rows where the CPU wrote them."""

import ctypes
import functools
import math
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from predictor_service.bins import Array

Matrix = npt.NDArray[Any]
Allocate = Callable[[tuple[int, ...], npt.DTypeLike], Matrix]

OUTPUT = "probabilities"
_LEAST_ROWS = 64
_LIBRARIES = ("libcudart.so.13", "libcudart.so.12")
_PORTABLE_AND_MAPPED = 0x01 | 0x02


def page_locked(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Matrix:
    """Uninitialised memory that is never paged out and has the same address for the GPU.

    It is freed with the last array that shows it. Raises OSError where CUDA gives none.
    """
    runtime, element = _runtime(), np.dtype(dtype)
    size_bytes = math.prod(shape) * element.itemsize
    host, device = ctypes.c_void_p(), ctypes.c_void_p()
    _check(runtime.cudaHostAlloc(ctypes.byref(host), ctypes.c_size_t(size_bytes), _PORTABLE_AND_MAPPED))
    _check(runtime.cudaHostGetDevicePointer(ctypes.byref(device), host, 0))
    if host.value is None or host.value != device.value:
        raise OSError("page-locked memory has another address for the GPU")
    memory = (ctypes.c_byte * size_bytes).from_address(host.value)
    # At exit the driver frees it, when nothing runs any more.
    weakref.finalize(memory, runtime.cudaFreeHost, host).atexit = False
    return np.frombuffer(memoryview(memory), dtype=element).reshape(shape)


class BoundRun:
    """IO binding of a session's `hidden` [N, dim], `age` [N] and `probabilities` [N, bins]; one run at a time.

    The buffers are kept, and grow in powers of two. Bound as memory of the GPU, `hidden` is read over the bus by the
    first kernel while the next ones are being launched, and the last kernel writes `probabilities` back. Bound as
    memory of the CPU, ONNX Runtime copies them before and after the kernels.
    """

    def __init__(self, session: Any, *, device: str = "cuda", allocate: Allocate = page_locked) -> None:
        """`device` is whose memory the buffers are bound as, "cuda" or "cpu"; `allocate` gives that memory."""
        self._session, self._device, self._allocate = session, device, allocate
        (self._dim,) = [node.shape[1] for node in session.get_inputs() if node.name == "hidden"]
        (self._bins,) = [node.shape[1] for node in session.get_outputs() if node.name == OUTPUT]
        self._lock = threading.Lock()
        self._binding: Any = None
        self._bound_rows = -1
        self._grow(_LEAST_ROWS)

    def __call__(self, hidden: Sequence[Matrix], ages: Matrix) -> Array:
        """Probabilities [N, bins] of rows that lie in one matrix [N, dim] or in several, and ages [N] in tokens."""
        with self._lock:
            self.fill(hidden, ages)
            return self.run(len(ages))

    def fill(self, hidden: Sequence[Matrix], ages: Matrix) -> None:
        """Writes rows into the buffers. For one caller at a time, as `run`."""
        rows = len(ages)
        if rows > len(self._ages):
            self._grow(rows)
        np.concatenate(hidden, out=self._hidden[:rows], casting="same_kind")
        self._ages[:rows] = ages

    def run(self, rows: int) -> Array:
        """Probabilities [rows, bins] of what the buffers hold."""
        # Memory of the CPU is copied when it is bound.
        if rows != self._bound_rows or self._device == "cpu":
            self._bind(rows)
        self._session.run_with_iobinding(self._binding)
        return self._probabilities[:rows].astype(np.float64)

    def _grow(self, rows: int) -> None:
        capacity = 1 << (rows - 1).bit_length()
        hidden = self._allocate((capacity, self._dim), np.float16)
        ages = self._allocate((capacity,), np.float32)
        probabilities = self._allocate((capacity, self._bins), np.float32)
        self._hidden, self._ages, self._probabilities = hidden, ages, probabilities
        self._bound_rows = -1

    def _bind(self, rows: int) -> None:
        binding = self._session.io_binding()
        for name, buffer in (("hidden", self._hidden), ("age", self._ages)):
            binding.bind_input(name, *self._place(buffer[:rows]))
        binding.bind_output(OUTPUT, *self._place(self._probabilities[:rows]))
        self._binding, self._bound_rows = binding, rows

    def _place(self, buffer: Matrix) -> tuple[str, int, Any, list[int], int]:
        return self._device, 0, buffer.dtype.type, list(buffer.shape), buffer.ctypes.data


@functools.cache
def _runtime() -> Any:
    """The CUDA runtime library that ONNX Runtime has loaded already."""
    for name in _LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise OSError(f"none of {', '.join(_LIBRARIES)} is there")


def _check(status: int) -> None:
    if status != 0:
        raise OSError(f"CUDA gives no page-locked memory (error {status})")
