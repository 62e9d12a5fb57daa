"""How picked rows get into the ring where the host can read the model's memory: copied, on the step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from engine_adapter.records import Rows

if TYPE_CHECKING:
    from engine_adapter.ring import RingProducer
    from engine_adapter.vllm.tap import Picked

DTYPES = {"float16": (1, torch.float16), "bfloat16": (2, torch.bfloat16), "float32": (3, torch.float32)}
"""Settings' names -> code of trail.v1.Dtype and torch's type."""


class CopiedRows:
    """Writes whole records; on a GPU it waits for the pass, so it is for CPUs and for hosts that cannot stream."""

    def __init__(self, ring: RingProducer, row_dtype: str) -> None:
        self._ring = ring
        self._code, self._dtype = DTYPES[row_dtype]

    @property
    def behind(self) -> bool:
        """Never: it has waited."""
        return False

    def __call__(self, picked: Picked, layers: Sequence[torch.Tensor]) -> None:
        index = torch.from_numpy(picked.at).to(layers[0].device)
        gathered = torch.cat([layer.index_select(0, index) for layer in layers], dim=1).to(self._dtype).cpu()
        bits = gathered.view(torch.int16).numpy().view(np.uint16) if self._code == 2 else gathered.numpy()
        rows = Rows(picked.step, self._code, gathered.shape[1], picked.handles, picked.ages, bits)
        self._ring.write(*rows.pack())
