"""Blocks of treatment beside blocks of control: one difference for each engine and group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scheduler_service.experiments.figures import Figure

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Block:
    """One block of one engine that is closed. `figures` by name; one is missing where the block could not tell it.

    `void` says why nothing of the block counts; empty: it counts.
    """

    engine_id: str
    number: int
    arm: str
    requests: int
    figures: Mapping[str, float]
    void: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """[N] in the order of time: the figure in both blocks, and their difference (`Figure.difference`).

    The order of the two was drawn by lot. So where an arm makes no difference at all, each difference might as well
    have had the other sign, whatever load, engines and days were like: what follows rests on nothing else.
    `missing` groups have only one block that counts.
    """

    treated: Floats
    control: Floats
    differences: Floats
    missing: int

    def __len__(self) -> int:
        return int(self.differences.size)

    @property
    def mean(self) -> float:
        return float(self.differences.mean()) if len(self) else float("nan")


def paired(blocks: Sequence[Block], arms: int, treatment: str, control: str, figure: Figure) -> Pairs:
    """Pairs of one treatment and control, where each group has `arms` blocks."""
    groups: dict[tuple[int, str], dict[str, float | None]] = {}
    for block in blocks:
        if block.arm in (treatment, control):
            value = None if block.void else block.figures.get(figure.name)
            groups.setdefault((block.number // arms, block.engine_id), {})[block.arm] = value
    rows: list[tuple[float, float, float]] = []
    missing = 0
    for _, found in sorted(groups.items()):
        if len(found) < 2:
            # The other block is still to come.
            continue
        one, other = found[treatment], found[control]
        difference = None if one is None or other is None else figure.difference(one, other)
        if one is None or other is None or difference is None:
            missing += 1
        else:
            rows.append((one, other, difference))
    treated, controls, differences = np.array(rows, np.float64).reshape(-1, 3).T
    return Pairs(treated, controls, differences, missing)
