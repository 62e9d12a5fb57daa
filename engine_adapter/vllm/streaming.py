"""How picked rows get into the ring from a GPU: one kernel of the step's own stream writes them there.

The ring's memory is pinned, so the GPU can write to it: a program for each row and layer gathers, narrows and stores,
and the last of them to finish stores the ring's head, which publishes the record. The engine's thread writes which rows
into pinned memory as well, and launches the kernel: no copy, no event, no second stream, and nothing to wait for. It
learns from the head that the GPU is done.

Nobody rings for these records: the agent looks by itself each millisecond.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]

from engine_adapter.records import rows_head
from engine_adapter.ring import CELL, HEAD_BYTE
from engine_adapter.vllm.shipping import DTYPES

if TYPE_CHECKING:
    from engine_adapter.ring import RingProducer
    from engine_adapter.vllm.tap import Picked

_UNDER_WAY = 4
"""Steps whose rows may be on their way at once; an engine runs two ahead."""
ALIGNMENT = tl.constexpr(CELL)
_TRITON = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}


@triton.jit  # type: ignore[untyped-decorator]
def _ship(  # type: ignore[no-untyped-def]
    told, out, head, finished, WIDTH: tl.constexpr, BLOCK: tl.constexpr, READ: tl.constexpr
):
    """Row x layer programs. ``told``: where the ring's head is to be, the layers' addresses, the rows' tokens."""
    row, layer = tl.program_id(0), tl.program_id(1)
    layers = tl.num_programs(1)
    source = tl.multiple_of(tl.load(told + 1 + layer).to(tl.pointer_type(READ)), ALIGNMENT)
    token = tl.load(told + 1 + layers + row)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    values = tl.load(source + token * WIDTH + columns, mask=inside)
    target = out + (row * layers + layer).to(tl.int64) * WIDTH
    tl.store(target + columns, values.to(out.dtype.element_ty), mask=inside)
    tl.debug_barrier()
    # Release and acquire for the whole system: whoever counts last has seen all rows written, and so does the host.
    before = tl.atomic_add(finished, 1, sem="acq_rel", scope="sys")
    if before == tl.num_programs(0) * layers - 1:
        tl.store(finished, 0)
        tl.store(head, tl.load(told))


class StreamedRows:
    """Writes the records of one CUDA device into ``ring``, which nothing else may write to."""

    def __init__(
        self, ring: RingProducer, row_dtype: str, layers: int, width: int, read: torch.dtype, most_rows: int,
        device: torch.device,
    ) -> None:  # fmt: skip
        """
        Args:
            width: values of one layer's row, of whole cells of the ring in both types.
            read: the layers' type.
            most_rows: requests in one pass, at most.

        Raises:
            RuntimeError: the ring's memory cannot be pinned, or the kernel cannot be compiled.
        """
        self._ring = ring
        self._code, dtype = DTYPES[row_dtype]
        self._layers, self._width, self._dim = layers, width, layers * width
        if width * min(dtype.itemsize, read.itemsize) % CELL:
            raise RuntimeError(f"rows of {width} values do not fill whole cells of {CELL} bytes")
        memory = torch.frombuffer(ring.memory, dtype=torch.uint8)
        self._memory = memory.data_ptr()
        status = torch.cuda.cudart().cudaHostRegister(self._memory, memory.numel(), 0)
        if int(status) != 0:
            # The driver keeps the error for whoever asks it next, which would be the model: this takes it out.
            with contextlib.suppress(RuntimeError):
                torch.zeros(1, device=device)
            raise RuntimeError(f"cudaHostRegister of {memory.numel()} bytes: status {int(status)}")
        # Memory that is unmapped while the driver takes it for pinned spoils whatever is mapped there next.
        weakref.finalize(self, _unpin, memory).atexit = False
        self._row_bytes = self._dim * dtype.itemsize
        self._finished = torch.zeros(1, dtype=torch.int32, device=device)
        self._told = [_Told(1 + layers + most_rows) for _ in range(_UNDER_WAY)]
        self._turn = 0
        try:
            self._compile(read, dtype, device)
        except Exception as error:  # Whatever Triton says: the engine goes on without it.
            raise RuntimeError(f"Triton cannot run the kernel: {error}") from error

    @property
    def behind(self) -> bool:
        return self._ring.published < self._ring.reserved

    def __call__(self, picked: Picked, layers: Sequence[torch.Tensor]) -> None:
        told = self._told[self._turn]
        if self._ring.published < told.head:
            self._ring.drop()
            return
        head = rows_head(picked.step, self._code, self._dim, picked.handles, picked.ages)
        count = len(picked.at)
        at = self._ring.reserve(len(head) + count * self._row_bytes)
        if at is None:
            return
        self._turn = (self._turn + 1) % _UNDER_WAY
        told.head = self._ring.reserved
        words = told.words
        words[0] = told.head
        words[1 : 1 + self._layers] = [layer.contiguous().data_ptr() for layer in layers]
        words[1 + self._layers : 1 + self._layers + count] = picked.at
        self._launch(told, self._memory + self._ring.put(at, head), self._memory + HEAD_BYTE, count)

    def _launch(self, told: _Told, out: int, head: int, count: int) -> None:
        # The compiled kernel itself: Triton's own way to it looks at every argument, at each call.
        self._kernel[(count, self._layers, 1)](told.address, out, head, self._finished.data_ptr(), *self._constants)

    def _compile(self, read: torch.dtype, written: torch.dtype, device: torch.device) -> None:
        """Compiles the kernel, which takes longer than any step, and runs it on memory of no account."""
        told, source = _Told(2 + self._layers), torch.zeros(self._width, dtype=read, device=device)
        out = torch.zeros(self._dim, dtype=written, pin_memory=True)
        head = torch.zeros(1, dtype=torch.int64, pin_memory=True)
        told.words[1 : 1 + self._layers] = source.data_ptr()
        self._constants = (self._width, triton.next_power_of_2(self._width), _TRITON[read])
        self._kernel = _ship[(1, self._layers)](told.pinned, out, head, self._finished, *self._constants)
        told.words[0] = 1
        self._launch(told, out.data_ptr(), head.data_ptr(), 1)
        torch.cuda.synchronize(device)
        if int(head[0]) != 1:
            raise RuntimeError("the GPU did not write to the host's memory")


def _unpin(memory: torch.Tensor) -> None:
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaHostUnregister(memory.data_ptr())


class _Told:
    """Pinned words that one launch reads, its own until the ring's head is at ``head``."""

    def __init__(self, size: int) -> None:
        self.pinned = torch.zeros(size, dtype=torch.int64, pin_memory=True)
        self.words = self.pinned.numpy()
        self.address = self.pinned.data_ptr()
        self.head = 0
