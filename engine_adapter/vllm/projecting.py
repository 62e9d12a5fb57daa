"""Rows that leave the engine projected: a classifier's first product is made where the hidden states lie.

A row then has P values, say 512, and not as many as the tapped layers have together. The product is one of standardised
values, which float16 holds well whatever the model's type.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from sidecar import projection

if TYPE_CHECKING:
    from engine_adapter.vllm.settings import ProjectionSettings
    from engine_adapter.vllm.tap import Ints, Picked, Shipper
    from sidecar.projection import Projection

    Standardise = Callable[[Ints, Sequence[torch.Tensor]], torch.Tensor]

ROW_TYPE = torch.float16
"""Of projected rows."""

logger = logging.getLogger("vllm.trail")


def load(given: ProjectionSettings, dim: int) -> Projection:
    """The projection that the settings mean, for tapped layers of ``dim`` values together.

    Raises:
        ValueError: its file is another one, or does not fit.
    """
    content = given.path.read_bytes()
    if projection.id_of(content) != given.id:
        raise ValueError(f"trail.projection: {given.path} is {projection.id_of(content)}, not {given.id}")
    found = projection.unpack(content)
    if found.weight.shape != (dim, given.dim):
        meant = f"the layers have {dim} values and trail.projection.dim is {given.dim}"
        raise ValueError(f"trail.projection: from {len(found.weight)} values to {found.dim}, but {meant}")
    return found


class ProjectedRows:
    """Projects what was picked and has ``inner`` ship it, as rows of one layer of P values in `ROW_TYPE`."""

    def __init__(
        self, inner: Shipper, project: Projection, layers: int, read: torch.dtype, most_rows: int, device: torch.device
    ) -> None:
        """
        Args:
            layers: how many are tapped, all of one width.
            read: their type.
            most_rows: requests in one pass, at most.
        """
        self._inner = inner
        on_gpu = device.type == "cuda"
        # A CPU is faster with float32; the weights are the same.
        self._weight = torch.from_numpy(project.weight).to(device, ROW_TYPE if on_gpu else torch.float32)
        by_kernel = _standardise_on_gpu(project, layers, read, most_rows, device) if on_gpu else None
        self._standardise = by_kernel or Standardised(project, device)
        self._order = np.arange(most_rows)

    @property
    def behind(self) -> bool:
        return self._inner.behind

    def __call__(self, picked: Picked, layers: Sequence[torch.Tensor]) -> None:
        rows = (self._standardise(picked.at, layers) @ self._weight).to(ROW_TYPE)
        self._inner(replace(picked, at=self._order[: len(rows)]), [rows])


class Standardised:
    """What the product is made of, by torch's own operations."""

    def __init__(self, project: Projection, device: torch.device) -> None:
        self._mean, self._scale = (torch.from_numpy(each).to(device) for each in (project.mean, project.scale))
        self._limit = float(project.limit)
        self._type = ROW_TYPE if device.type == "cuda" else torch.float32

    def __call__(self, at: Ints, layers: Sequence[torch.Tensor]) -> torch.Tensor:
        """[N, D] of the tokens ``at`` [N] of the layers, each [tokens, D / layers]."""
        index = torch.from_numpy(at)
        if self._mean.device.type == "cuda":
            # Without waiting: pageable memory would be copied on the step.
            index = index.pin_memory().to(self._mean.device, non_blocking=True)
        hidden = torch.cat([layer.index_select(0, index) for layer in layers], dim=1).float()
        return hidden.sub_(self._mean).mul_(self._scale).clamp_(-self._limit, self._limit).to(self._type)


def _standardise_on_gpu(
    project: Projection, layers: int, read: torch.dtype, most_rows: int, device: torch.device
) -> Standardise | None:
    """By one kernel; None where Triton cannot make it."""
    try:
        from engine_adapter.vllm.standardising import GatheredRows

        return GatheredRows(project, layers, read, most_rows, device)
    except Exception as error:  # Whatever Triton says: there is a slower way.
        logger.warning("trail: rows are standardised by many kernels, which slows the step: %s", error)
        return None
