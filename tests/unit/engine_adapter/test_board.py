import multiprocessing
import time
from pathlib import Path

import numpy as np
import pytest

from engine_adapter.board import HEADER_BYTES, MAX_ENTRIES, BoardPlan, BoardReader, BoardWriter
from engine_adapter.ring import RingError


def plan(number: int, entries: int = 3, preemptions: int = 1, ttl_s: float = 60.0) -> BoardPlan:
    """A plan whose every value follows from its number, so that a mixture of two is seen."""
    return BoardPlan(
        number=number,
        expires_ns=time.monotonic_ns() + int(ttl_s * 1e9),
        handles=np.full(entries, number, np.uint64),
        ranks=np.full(entries, number, np.float32),
        victims=np.full(preemptions, number, np.uint64),
        guards=np.full(preemptions, number, np.uint32),
        beneficiaries=np.full(preemptions, number, np.uint64),
    )


def is_whole(read: BoardPlan) -> bool:
    return all(
        bool((values == read.number).all())
        for values in (read.handles, read.ranks, read.victims, read.guards, read.beneficiaries)
    )


def test_a_plan_comes_through_once(tmp_path: Path) -> None:
    writer, reader = BoardWriter(tmp_path / "plan.board"), BoardReader(tmp_path / "plan.board")
    assert reader.newest() is None
    written = BoardPlan(
        7, 99, np.array([3, 1], np.uint64), np.array([0.5, 2.5], np.float32),
        np.array([1], np.uint64), np.array([40], np.uint32), np.array([3], np.uint64), 12, 5,
    )  # fmt: skip
    writer.publish(written)
    read = reader.newest()
    assert read is not None
    assert (read.number, read.expires_ns, read.reserve_blocks, read.admit_together) == (7, 99, 12, 5)
    head = reader.head()
    assert head is not None
    assert (head.reserve_blocks, head.admit_together) == (12, 5)
    for name in ("handles", "ranks", "victims", "guards", "beneficiaries"):
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))
    assert reader.newest() is None


def test_the_head_is_known_without_the_plan_being_read(tmp_path: Path) -> None:
    writer, reader = BoardWriter(tmp_path / "plan.board"), BoardReader(tmp_path / "plan.board")
    assert reader.head() is None
    writer.publish(plan(1, preemptions=0))
    writer.publish(plan(2, preemptions=5, ttl_s=0))
    head = reader.head()
    assert head is not None
    assert (head.number, head.preemptions, head.alive()) == (2, 5, False)
    assert reader.head() is head
    read = reader.newest()
    assert read is not None
    assert read.number == 2
    writer.withdraw()
    head = reader.head()
    assert head is not None
    assert (head.number, head.alive()) == (0, False)


def test_the_newest_of_several_plans_is_read(tmp_path: Path) -> None:
    writer, reader = BoardWriter(tmp_path / "plan.board"), BoardReader(tmp_path / "plan.board")
    for number in (1, 2, 3):
        writer.publish(plan(number))
    read = reader.newest()
    assert read is not None
    assert read.number == 3


def test_a_plan_lives_until_it_expires(tmp_path: Path) -> None:
    assert plan(1, ttl_s=60).alive()
    assert not plan(1, ttl_s=0).alive()


def test_a_withdrawn_plan_is_not_alive(tmp_path: Path) -> None:
    writer, reader = BoardWriter(tmp_path / "plan.board"), BoardReader(tmp_path / "plan.board")
    writer.publish(plan(1))
    writer.withdraw()
    read = reader.newest()
    assert read is not None
    assert not read.alive()
    assert len(read.handles) == 0


def test_a_new_writer_is_heard_by_an_old_reader(tmp_path: Path) -> None:
    first, reader = BoardWriter(tmp_path / "plan.board"), BoardReader(tmp_path / "plan.board")
    first.publish(plan(1))
    assert reader.newest() is not None
    first.close()
    BoardWriter(tmp_path / "plan.board").publish(plan(2))
    read = reader.newest()
    assert read is not None
    assert read.number == 2


def test_a_half_written_slot_is_no_plan_and_does_not_hide_the_next(tmp_path: Path) -> None:
    path = tmp_path / "plan.board"
    writer, reader = BoardWriter(path), BoardReader(path)
    writer.publish(plan(1))
    with path.open("r+b") as file:
        file.seek(HEADER_BYTES + (path.stat().st_size - HEADER_BYTES) // 2 + 60)
        file.write(b"\xff")
    assert reader.newest() is None
    writer.publish(plan(2))
    read = reader.newest()
    assert read is not None
    assert read.number == 2


def test_a_plan_that_does_not_fit_is_refused_with_the_limit(tmp_path: Path) -> None:
    writer = BoardWriter(tmp_path / "plan.board")
    with pytest.raises(ValueError, match="board holds 8192"):
        writer.publish(plan(1, entries=MAX_ENTRIES + 1))


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.board").write_bytes(b"x" * 10_000)
    with pytest.raises(RingError, match="remove it"):
        BoardReader(tmp_path / "plan.board")


def hammer(path: Path, stop: "multiprocessing.synchronize.Event") -> None:
    writer = BoardWriter(path)
    number = 0
    while not stop.is_set():
        number += 1
        writer.publish(plan(number, entries=number * 37 % MAX_ENTRIES, preemptions=number % 500))


def test_a_reader_never_sees_a_mixture_of_two_plans(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    reader = BoardReader(tmp_path / "plan.board")
    writer = context.Process(target=hammer, args=(tmp_path / "plan.board", stop))
    writer.start()
    try:
        seen: list[int] = []
        deadline_s = time.monotonic() + 30
        while len(seen) < 300 and time.monotonic() < deadline_s:
            head, read = reader.head(), reader.newest()
            assert head is None or head.preemptions == head.number % 500
            if read is not None:
                assert is_whole(read)
                seen.append(read.number)
    finally:
        stop.set()
        writer.join()
    assert len(seen) == 300
    assert seen == sorted(seen)
