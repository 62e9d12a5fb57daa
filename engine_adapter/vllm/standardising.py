"""Rows gathered from the tapped layers and standardised, by one kernel of the step's own stream.

Which rows, the kernel reads from pinned memory: the engine's thread neither copies nor waits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]

from engine_adapter.vllm.projecting import ROW_TYPE

if TYPE_CHECKING:
    from engine_adapter.vllm.tap import Ints
    from sidecar.projection import Projection

_UNDER_WAY = 4
"""Steps whose rows may be on their way at once before more memory is taken; an engine runs two ahead."""
_BYTES = tl.constexpr(16)
"""What rows are multiples of, so that as much is read at once."""
_TRITON = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}


@triton.jit  # type: ignore[untyped-decorator]
def _standardise(  # type: ignore[no-untyped-def]
    told, mean, scale, out, LIMIT: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, READ: tl.constexpr
):
    """Row x layer programs. ``told``: the layers' addresses, the rows' tokens."""
    row, layer = tl.program_id(0), tl.program_id(1)
    layers = tl.num_programs(1)
    source = tl.multiple_of(tl.load(told + layer).to(tl.pointer_type(READ)), _BYTES)
    token = tl.load(told + layers + row)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    values = tl.load(source + token * WIDTH + columns, mask=inside).to(tl.float32)
    at = layer * WIDTH + columns
    values = (values - tl.load(mean + at, mask=inside)) * tl.load(scale + at, mask=inside)
    # Comparisons leave what is no number as it is, for the predictor to refuse.
    values = tl.where(values > LIMIT, LIMIT, tl.where(values < -LIMIT, -LIMIT, values))
    tl.store(out + row.to(tl.int64) * layers * WIDTH + at, values.to(out.dtype.element_ty), mask=inside)


class GatheredRows:
    """As `projecting.Standardised`, on one CUDA device."""

    def __init__(
        self, project: Projection, layers: int, read: torch.dtype, most_rows: int, device: torch.device
    ) -> None:
        """Compiles the kernel, which takes longer than any step. Raises RuntimeError, or what Triton raises."""
        dim = len(project.mean)
        width = dim // layers
        if width * min(read.itemsize, ROW_TYPE.itemsize) % _BYTES.value:
            raise RuntimeError(f"rows of {width} values are no multiples of {_BYTES.value} bytes")
        self._layers, self._dim, self._device, self._most_rows = layers, dim, device, most_rows
        self._mean, self._scale = (torch.from_numpy(each).to(device) for each in (project.mean, project.scale))
        self._told = [_Told(layers + most_rows) for _ in range(_UNDER_WAY)]
        self._constants = (float(project.limit), width, triton.next_power_of_2(width), _TRITON[read])
        source = torch.zeros((1, width), dtype=read, device=device)
        told, out = self._told[0], torch.zeros((1, dim), dtype=ROW_TYPE, device=device)
        told.words[:layers], told.words[layers] = source.data_ptr(), 0
        self._kernel = _standardise[(1, layers)](told.pinned, self._mean, self._scale, out, *self._constants)
        torch.cuda.synchronize(device)

    def __call__(self, at: Ints, layers: Sequence[torch.Tensor]) -> torch.Tensor:
        """[N, D] of the tokens ``at`` [N] of the layers, each [tokens, D / layers]."""
        told = self._free()
        told.words[: self._layers] = [layer.contiguous().data_ptr() for layer in layers]
        told.words[self._layers : self._layers + len(at)] = at
        rows = torch.empty((len(at), self._dim), dtype=ROW_TYPE, device=self._device)
        # The compiled kernel itself: Triton's own way to it looks at every argument, at each call.
        self._kernel[(len(at), self._layers, 1)](
            told.address, self._mean.data_ptr(), self._scale.data_ptr(), rows.data_ptr(), *self._constants
        )
        told.read.record()
        return rows

    def _free(self) -> _Told:
        """Words that no kernel will read any more; the oldest are, unless the engine runs far ahead."""
        told = self._told.pop(0)
        if not told.read.query():
            self._told.insert(0, told)
            told = _Told(self._layers + self._most_rows)
        self._told.append(told)
        return told


class _Told:
    """Pinned words that one launch reads."""

    def __init__(self, size: int) -> None:
        self.pinned = torch.zeros(size, dtype=torch.int64, pin_memory=True)
        self.words = self.pinned.numpy()
        self.address = self.pinned.data_ptr()
        self.read = torch.cuda.Event()
