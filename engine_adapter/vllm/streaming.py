"""How picked rows get into the ring from a GPU: the GPU itself writes them there, on a stream of its own.

    main stream   gather the rows into a buffer of ours (the graph's outputs are overwritten by the next step)
    side stream   buffer -> the ring's memory, which is pinned; then the ring's head, which publishes the record

Nobody rings for these records: the agent looks by itself each millisecond.

The engine's thread only enqueues. It never waits, and no thread, copy or system call of the host moves a row: the head
is copied in the stream's order, so whoever sees it finds the record complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from engine_adapter.records import rows_head
from engine_adapter.ring import HEAD_BYTE
from engine_adapter.vllm.shipping import DTYPES

if TYPE_CHECKING:
    from engine_adapter.ring import RingProducer
    from engine_adapter.vllm.tap import Picked

_UNDER_WAY = 4
"""Steps whose rows may be on their way at once; an engine runs two ahead."""
_HEAD_BYTES = 8


class StreamedRows:
    """Writes the records of one CUDA device into ``ring``, which nothing else may write to."""

    def __init__(self, ring: RingProducer, row_dtype: str, dim: int, most_rows: int, device: torch.device) -> None:
        """
        Args:
            dim: values a row, all tapped layers together.
            most_rows: requests in one pass, at most.

        Raises:
            RuntimeError: the ring's memory cannot be pinned.
        """
        self._ring = ring
        self._code, dtype = DTYPES[row_dtype]
        self._dim = dim
        self._memory = torch.frombuffer(ring.memory, dtype=torch.uint8)
        status = torch.cuda.cudart().cudaHostRegister(self._memory.data_ptr(), self._memory.numel(), 0)
        if int(status) != 0:
            raise RuntimeError(f"cudaHostRegister of {self._memory.numel()} bytes: status {int(status)}")
        self._head = self._memory[HEAD_BYTE : HEAD_BYTE + _HEAD_BYTES]
        self._stream = torch.cuda.Stream(device)
        self._transfers = [_Transfer(dim, most_rows, dtype, device) for _ in range(_UNDER_WAY)]
        self._turn = 0

    def __call__(self, picked: Picked, layers: Sequence[torch.Tensor]) -> None:
        transfer = self._transfers[self._turn]
        if not transfer.done.query():
            self._ring.drop()
            return
        head = rows_head(
            picked.step, self._code, self._dim, picked.handles, picked.ages, picked.prompt_handles, picked.covered,
            picked.total,
        )  # fmt: skip
        count, prompts = len(picked.at), len(picked.sums)
        parts = [transfer.rows[:count].view(-1).view(torch.uint8)]
        if prompts:
            parts.append(transfer.sums[:prompts].view(-1).view(torch.uint8))
        at = self._ring.reserve(len(head) + sum(part.numel() for part in parts))
        if at is None:
            return
        self._turn = (self._turn + 1) % _UNDER_WAY
        at = self._ring.put(at, head)
        with torch.inference_mode():
            transfer.gather(picked, layers, self._ring.reserved)
            self._stream.wait_event(transfer.ready)
            with torch.cuda.stream(self._stream):
                for part in parts:
                    self._memory[at : at + part.numel()].copy_(part, non_blocking=True)
                    at += part.numel()
                self._head.copy_(transfer.told[count : count + 1].view(torch.uint8), non_blocking=True)
                transfer.done.record()


class _Transfer:
    """Buffers of one step's rows, in use until ``done``."""

    def __init__(self, dim: int, most_rows: int, dtype: torch.dtype, device: torch.device) -> None:
        self.rows = torch.empty((most_rows, dim), dtype=dtype, device=device)
        self.sums = torch.empty((most_rows, dim), dtype=torch.float32, device=device)
        self.told = torch.empty(most_rows + 1, dtype=torch.int64, device=device)
        """Which tokens to gather, and behind them where the ring's head is to be."""
        self._staged = torch.empty(most_rows + 1, dtype=torch.int64, pin_memory=True)
        self._staged_np = self._staged.numpy()
        self.ready, self.done = torch.cuda.Event(), torch.cuda.Event()

    def gather(self, picked: Picked, layers: Sequence[torch.Tensor], head: int) -> None:
        """On the current stream; ``ready`` tells when it is done."""
        count = len(picked.at)
        self._staged_np[:count], self._staged_np[count] = picked.at, np.int64(head)
        self.told[: count + 1].copy_(self._staged[: count + 1], non_blocking=True)
        index, column = self.told[:count], 0
        for layer in layers:
            width = layer.shape[1]
            self.rows[:count, column : column + width].copy_(layer.index_select(0, index))
            column += width
        if picked.sums:
            torch.stack(list(picked.sums), out=self.sums[: len(picked.sums)])
        self.ready.record()
