"""What this replica counts of each block, until the store has it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

from scheduler_service.experiments.tally import Tally


@dataclass(slots=True)
class Counted:
    """`name` names it in the store. It is new with each, so that nothing is ever written over another count."""

    arm: str
    name: str
    tally: Tally = field(default_factory=Tally)
    unwritten: bool = True


class Counts:
    """By experiment, engine and block."""

    def __init__(self) -> None:
        self._of: dict[tuple[str, str, int], Counted] = {}

    def of(self, name: str, engine_id: str, block: int, arm: str) -> Tally:
        """To add to."""
        counted = self._of.get((name, engine_id, block))
        if counted is None:
            counted = self._of[name, engine_id, block] = Counted(arm, f"{block}:{secrets.token_hex(6)}")
        counted.unwritten = True
        return counted.tally

    def of_arm(self, name: str, arm: str) -> Iterator[Tally]:
        """Of the newest blocks of an arm."""
        return (each.tally for (of, _, _), each in self._of.items() if of == name and each.arm == arm)

    def unwritten(self) -> dict[tuple[str, str], list[Counted]]:
        """By experiment and engine."""
        found: dict[tuple[str, str], list[Counted]] = {}
        for (name, engine_id, _), each in self._of.items():
            if each.unwritten:
                found.setdefault((name, engine_id), []).append(each)
        return found

    def forget(self, name: str, before_block: int) -> None:
        """Drops what is written of blocks before this one."""
        gone = [at for at, each in self._of.items() if at[0] == name and at[2] < before_block and not each.unwritten]
        for at in gone:
            del self._of[at]
