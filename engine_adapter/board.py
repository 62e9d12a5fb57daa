"""The plan board: the newest plan, written by the agent and read by the engine's scheduler, in a mapped file.

Two slots behind a sequence number. The writer fills the slot that readers do not look at and then turns the
number; a reader that is overtaken twice finds a checksum that does not match and keeps the plan it has. Nobody waits.
"""

from __future__ import annotations

import mmap
import struct
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine_adapter.ring import HEADER_BYTES, RingError, create_private_file, map_private_file

MAGIC = 0x3344_5242_4C52_54  # "TRLBRD3"
MAX_ENTRIES = 8192
MAX_PREEMPTIONS = 1024
NO_PREDICTION_AGE = 0xFFFF_FFFF

_SLOT = struct.Struct("<QQQIIIII")
"""Sequence, number, expires_ns, entries, preemptions, reserve_blocks, admit_together, crc32."""
_SLOT_BYTES = _SLOT.size + MAX_ENTRIES * 12 + MAX_PREEMPTIONS * 20


@dataclass(frozen=True, slots=True)
class BoardPlan:
    """A plan as the engine sees it.

    ``expires_ns`` is CLOCK_MONOTONIC of this host: from then on the engine keeps its own order.
    """

    number: int
    expires_ns: int
    handles: npt.NDArray[np.uint64]
    """[N], best first."""
    ranks: npt.NDArray[np.float32]
    """[N], lower first."""
    victims: npt.NDArray[np.uint64]
    """[P]."""
    guards: npt.NDArray[np.uint32]
    """[P], preempt only while the victim's age is below."""
    beneficiaries: npt.NDArray[np.uint64]
    """[P]."""
    reserve_blocks: int = 0
    """KV blocks that stay free when a waiting request is admitted beside others."""
    admit_together: int = 0
    """Places that are free before anybody is admitted, unless a step has prefill anyhow; 0 and 1: at once."""

    def alive(self, now_ns: int | None = None) -> bool:
        return (time.monotonic_ns() if now_ns is None else now_ns) < self.expires_ns


@dataclass(frozen=True, slots=True)
class PlanHead:
    """What can be known of a plan without reading it."""

    number: int
    expires_ns: int
    preemptions: int
    reserve_blocks: int
    admit_together: int

    def alive(self) -> bool:
        return time.monotonic_ns() < self.expires_ns


class _Board:
    def __init__(self, path: Path) -> None:
        header = struct.pack("<QQ", MAGIC, 0).ljust(HEADER_BYTES, b"\0")
        create_private_file(path, HEADER_BYTES + 2 * _SLOT_BYTES, header)
        self._map = map_private_file(path)
        self._header = memoryview(self._map)[:16].cast("Q")
        if self._header[0] != MAGIC or len(self._map) != HEADER_BYTES + 2 * _SLOT_BYTES:
            raise RingError(f"{path}: not a plan board of this version; remove it and start again")

    def close(self) -> None:
        self._header.release()
        self._map.close()


class BoardWriter(_Board):
    """The agent's side."""

    def publish(self, plan: BoardPlan) -> None:
        """Makes ``plan`` the newest.

        Raises:
            ValueError: more entries or preemptions than the board holds.
        """
        if len(plan.handles) > MAX_ENTRIES or len(plan.victims) > MAX_PREEMPTIONS:
            raise ValueError(
                f"plan {plan.number}: {len(plan.handles)} entries and {len(plan.victims)} preemptions, "
                f"but the board holds {MAX_ENTRIES} and {MAX_PREEMPTIONS}"
            )
        sequence = self._header[1] + 1
        body = b"".join((
            plan.handles.tobytes(), plan.victims.tobytes(), plan.beneficiaries.tobytes(),
            plan.ranks.tobytes(), plan.guards.tobytes(),
        ))  # fmt: skip
        head = (
            sequence, plan.number, plan.expires_ns, len(plan.handles), len(plan.victims), plan.reserve_blocks,
            plan.admit_together,
        )  # fmt: skip
        slot = _SLOT.pack(*head, zlib.crc32(body, zlib.crc32(repr(head).encode()))) + body
        at = _slot_at(sequence)
        self._map[at : at + len(slot)] = slot
        self._header[1] = sequence

    def withdraw(self) -> None:
        """Ends the plan on the board: the engine goes back to its own order at its next step."""
        empty = np.zeros(0, np.uint64)
        ranks, guards = np.zeros(0, np.float32), np.zeros(0, np.uint32)
        self.publish(BoardPlan(0, 0, empty, ranks, empty, guards, empty))


class BoardReader(_Board):
    """The engine's side."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._seen = self._glanced = 0
        self._head: PlanHead | None = None

    def head(self) -> PlanHead | None:
        """Of the newest plan; None before the first. One comparison where that is the plan of the last call."""
        sequence = self._header[1]
        if sequence != self._glanced:
            written, number, expires_ns, _, *of_plan, _ = _SLOT.unpack_from(self._map, _slot_at(sequence))
            # Unless the number was turned while this was read, nobody wrote to this slot.
            if written == sequence == self._header[1]:
                self._glanced, self._head = sequence, PlanHead(number, expires_ns, *of_plan)
        return self._head

    def newest(self) -> BoardPlan | None:
        """The plan that was published since the last call, or None.

        One comparison when there is none. A torn slot counts as none; the next call looks again.
        """
        sequence = self._header[1]
        if sequence == self._seen:
            return None
        plan = _parse(self._map, _slot_at(sequence), sequence)
        if plan is not None:
            self._seen = sequence
        return plan


def _slot_at(sequence: int) -> int:
    return HEADER_BYTES + (sequence % 2) * _SLOT_BYTES


def _parse(board: mmap.mmap, at: int, sequence: int) -> BoardPlan | None:
    *head, crc = _SLOT.unpack_from(board, at)
    written, number, expires_ns, entries, preemptions, reserve_blocks, admit_together = head
    if written != sequence or entries > MAX_ENTRIES or preemptions > MAX_PREEMPTIONS:
        return None
    start = at + _SLOT.size
    body = board[start : start + entries * 12 + preemptions * 20]
    if zlib.crc32(body, zlib.crc32(repr(tuple(head)).encode())) != crc:
        return None
    wide = np.frombuffer(body, np.uint64, entries + 2 * preemptions)
    narrow = body[wide.nbytes :]
    return BoardPlan(
        number=number,
        expires_ns=expires_ns,
        handles=wide[:entries],
        ranks=np.frombuffer(narrow, np.float32, entries),
        victims=wide[entries : entries + preemptions],
        guards=np.frombuffer(narrow, np.uint32, preemptions, 4 * entries),
        beneficiaries=wide[entries + preemptions :],
        reserve_blocks=reserve_blocks,
        admit_together=admit_together,
    )
