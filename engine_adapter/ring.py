"""A single-producer, single-consumer ring of byte records in a memory-mapped private file.

The producer never waits: a record that does not fit is dropped and counted. Either side may die and
come back; each bumps its generation in the header, by which the other side notices.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from pathlib import Path

import numpy as np

from engine_adapter.bell import Ringer
from engine_adapter.paths import private_folder

MAGIC = 0x324C_4941_5254  # "TRAIL2"
HEADER_BYTES = 64 * 8
WRAP = 0xFFFF_FFFF
CELL = 16
"""Records begin and end at multiples of it, their length in a cell of its own: a GPU stores 16 bytes at once."""
_LENGTH = 4

# Header words, one cache line each, so that the two sides never share a line.
_MAGIC, _CAPACITY, _HEAD, _TAIL, _DROPPED, _PRODUCER, _CONSUMER = (i * 8 for i in range(7))
HEAD_BYTE = _HEAD * 8
"""Where in the file the head lies, for a device that publishes by itself."""


class RingError(RuntimeError):
    """A file that is not a ring of this version, or that holds a broken record."""


def create_private_file(path: Path, size_bytes: int, header: bytes) -> None:
    """Puts a zeroed file of ``size_bytes`` that starts with ``header`` at ``path``, unless one exists.

    Two processes may race: the file appears whole or not at all, readable by this user only.

    Raises:
        OSError: there is no room for it.
        FolderError: others could reach into the folder.
    """
    private_folder(path.parent)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        # All of it now: a sparse file in a full shared memory would kill the process at its first write (SIGBUS).
        os.posix_fallocate(handle, 0, size_bytes)
        os.pwrite(handle, header, 0)
        with contextlib.suppress(FileExistsError):
            os.link(name, path)
    finally:
        os.close(handle)
        os.unlink(name)


def map_private_file(path: Path) -> mmap.mmap:
    """Maps a file for reading and writing; refuses one that belongs to another user."""
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        status = os.fstat(fd)
        if status.st_uid != os.getuid():
            raise RingError(f"{path}: belongs to user {status.st_uid}, not to {os.getuid()}")
        if status.st_size < HEADER_BYTES:
            raise RingError(f"{path}: {status.st_size} bytes are too few")
        return mmap.mmap(fd, status.st_size)
    finally:
        os.close(fd)


class _Ring:
    def __init__(self, path: Path, capacity_bytes: int) -> None:
        if capacity_bytes % CELL:
            # A wrap mark would not fit into the last bytes.
            raise ValueError(f"capacity_bytes: {capacity_bytes} is not a multiple of {CELL}")
        header = np.zeros(HEADER_BYTES // 8, np.uint64)
        header[_MAGIC], header[_CAPACITY] = MAGIC, capacity_bytes
        create_private_file(path, HEADER_BYTES + capacity_bytes, header.tobytes())
        self._map = map_private_file(path)
        self._header = memoryview(self._map)[:HEADER_BYTES].cast("Q")
        if self._header[_MAGIC] != MAGIC:
            raise RingError(f"{path}: not a ring of this version; remove it and start again")
        self._capacity = self._header[_CAPACITY]
        if self._capacity + HEADER_BYTES != len(self._map):
            raise RingError(f"{path}: {len(self._map)} bytes, but the header says {self._capacity}")
        self._bytes = memoryview(self._map)[HEADER_BYTES:]

    @property
    def dropped(self) -> int:
        """Records that did not fit since the file was made."""
        return self._header[_DROPPED]

    @property
    def producer_generation(self) -> int:
        return self._header[_PRODUCER]

    @property
    def consumer_generation(self) -> int:
        return self._header[_CONSUMER]

    def close(self) -> None:
        self._header.release()
        self._bytes.release()
        self._map.close()


class RingProducer(_Ring):
    """The writing side. There must be one only. ``bell`` is rung after each record.

    ``write`` does all there is to do. A device that writes by itself is given a place by ``reserve``, and the head that
    publishes it in ``reserved``, once everything before is published.
    """

    def __init__(self, path: Path, capacity_bytes: int, bell: Ringer | None = None) -> None:
        super().__init__(path, capacity_bytes)
        self._bell = bell
        self._header[_PRODUCER] += 1
        self.reserved = self._header[_HEAD]
        """The head that publishes all that was reserved."""

    @property
    def published(self) -> int:
        """The head as it is: all before it can be read."""
        return self._header[_HEAD]

    @property
    def memory(self) -> mmap.mmap:
        """The whole file, header included."""
        return self._map

    def close(self) -> None:
        super().close()
        if self._bell is not None:
            self._bell.close()

    def write(self, *parts: bytes | memoryview) -> bool:
        """Appends one record made of ``parts``; False when it does not fit (dropped and counted).

        An empty ring has room for any record of up to half its capacity.
        """
        at = self.reserve(sum(len(part) for part in parts))
        if at is None:
            return False
        for part in parts:
            at = self.put(at, part)
        # Published last: the consumer reads nothing beyond the head.
        self._header[_HEAD] = self.reserved
        if self._bell is not None:
            self._bell.ring()
        return True

    def reserve(self, size: int) -> int | None:
        """Where in ``memory`` a record of ``size`` bytes begins; None when it does not fit (dropped and counted)."""
        need = CELL + padded(size)
        head, tail = self.reserved, self._header[_TAIL]
        at = head % self._capacity
        skip = self._capacity - at if at + need > self._capacity else 0
        if head + skip + need - tail > self._capacity:
            self.drop()
            return None
        if skip:
            self._bytes[at : at + _LENGTH] = WRAP.to_bytes(_LENGTH, "little")
            at = 0
        self._bytes[at : at + _LENGTH] = size.to_bytes(_LENGTH, "little")
        self.reserved = head + skip + need
        return HEADER_BYTES + at + CELL

    def put(self, at: int, part: bytes | memoryview) -> int:
        """Writes ``part`` where a record was reserved, and returns where it ends."""
        end = at + len(part)
        self._map[at:end] = part
        return end

    def drop(self) -> None:
        """Counts a record that cannot be written."""
        self._header[_DROPPED] += 1


class RingConsumer(_Ring):
    """The reading side. There must be one only. What was written before it came is skipped."""

    def __init__(self, path: Path, capacity_bytes: int) -> None:
        super().__init__(path, capacity_bytes)
        self._header[_TAIL] = self._header[_HEAD]
        self._header[_CONSUMER] += 1

    def resynchronise(self) -> None:
        """Skips what is in the ring and asks the producer to declare its requests again."""
        self._header[_TAIL] = self._header[_HEAD]
        self._header[_CONSUMER] += 1

    def read(self) -> bytes | None:
        """The oldest record, or None when there is none.

        Raises:
            RingError: a record's length, or what is said to be written, is impossible; call ``resynchronise``.
        """
        head, tail = self._header[_HEAD], self._header[_TAIL]
        if not 0 <= head - tail <= self._capacity:
            raise RingError(f"{head - tail} bytes are said to be written, of {self._capacity}")
        while tail != head:
            at = tail % self._capacity
            size = int.from_bytes(self._bytes[at : at + _LENGTH], "little")
            if size == WRAP:
                tail += self._capacity - at
                if tail > head:
                    raise RingError(f"wrap mark at {at} goes beyond what was written")
                continue
            if at + CELL + size > self._capacity or tail + CELL + size > head:
                raise RingError(f"record of {size} bytes at {at} goes beyond what was written")
            record = bytes(self._bytes[at + CELL : at + CELL + size])
            self._header[_TAIL] = tail + CELL + padded(size)
            return record
        self._header[_TAIL] = tail
        return None


def padded(size: int) -> int:
    """Rounded up to whole cells."""
    return -(-size // CELL) * CELL
