import os
import stat
from pathlib import Path

import pytest

from engine_adapter.ring import CELL, HEAD_BYTE, HEADER_BYTES, RingConsumer, RingError, RingProducer

CAPACITY = 1024


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "engine" / "events.ring"


def test_only_this_user_can_read_the_file(path: Path) -> None:
    RingProducer(path, CAPACITY).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_first_to_come_decides_the_capacity(path: Path) -> None:
    consumer = RingConsumer(path, CAPACITY)
    producer = RingProducer(path, 4 * CAPACITY)
    assert path.stat().st_size == HEADER_BYTES + CAPACITY
    assert producer.write(b"x" * 500)
    assert consumer.read() == b"x" * 500


def test_a_capacity_that_no_wrap_mark_fits_into_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="multiple of 16"):
        RingProducer(path, CAPACITY + 2)


def test_a_device_writes_what_was_reserved_and_publishes_by_the_head(path: Path) -> None:
    consumer, producer = RingConsumer(path, CAPACITY), RingProducer(path, CAPACITY)
    heads = []
    for text in (b"first", b"second"):
        at = producer.reserve(len(text))
        assert at is not None
        assert producer.put(at, text) == at + len(text)
        heads.append(producer.reserved)
    assert consumer.read() is None
    for head, text in zip(heads, (b"first", b"second"), strict=True):
        assert producer.published < head
        producer.memory[HEAD_BYTE : HEAD_BYTE + 8] = head.to_bytes(8, "little")
        assert producer.published == head
        assert consumer.read() == text
        assert consumer.read() is None
    assert producer.reserve(CAPACITY) is None
    assert producer.dropped == 1
    assert producer.write(b"third")
    assert consumer.read() == b"third"


def test_a_file_of_another_kind_is_refused_by_name(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"x" * (HEADER_BYTES + CAPACITY))
    with pytest.raises(RingError, match=r"events\.ring.*remove it"):
        RingConsumer(path, CAPACITY)


def test_a_truncated_file_is_refused(path: Path) -> None:
    RingProducer(path, CAPACITY).close()
    os.truncate(path, HEADER_BYTES + 100)
    with pytest.raises(RingError, match="header says 1024"):
        RingConsumer(path, CAPACITY)


def test_a_full_ring_drops_and_counts_and_goes_on_after_a_read(path: Path) -> None:
    producer, consumer = RingProducer(path, CAPACITY), RingConsumer(path, CAPACITY)
    assert producer.write(b"a" * 490)
    assert producer.write(b"b" * 490)
    assert not producer.write(b"c" * 490)
    assert producer.dropped == consumer.dropped == 1
    assert consumer.read() == b"a" * 490
    assert producer.write(b"d" * 490)
    assert [consumer.read(), consumer.read(), consumer.read()] == [b"b" * 490, b"d" * 490, None]


def test_a_record_of_half_the_capacity_always_fits_an_empty_ring(path: Path) -> None:
    producer, consumer = RingProducer(path, CAPACITY), RingConsumer(path, CAPACITY)
    for size in range(0, CAPACITY // 2 - CELL, 7):
        for record in (b"x" * size, b"y" * (CAPACITY // 2 - CELL)):
            assert producer.write(record)
            assert consumer.read() == record


def test_a_new_consumer_skips_what_was_before_it_and_is_noticed(path: Path) -> None:
    producer, first = RingProducer(path, CAPACITY), RingConsumer(path, CAPACITY)
    producer.write(b"for the first")
    first.close()
    second = RingConsumer(path, CAPACITY)
    assert second.read() is None
    assert producer.consumer_generation == 2


def test_a_new_producer_goes_on_where_the_old_one_ended_and_is_noticed(path: Path) -> None:
    first, consumer = RingProducer(path, CAPACITY), RingConsumer(path, CAPACITY)
    first.write(b"one")
    first.close()
    second = RingProducer(path, CAPACITY)
    second.write(b"two")
    assert (consumer.read(), consumer.read()) == (b"one", b"two")
    assert consumer.producer_generation == 2


def test_resynchronising_skips_and_asks_for_everything(path: Path) -> None:
    producer, consumer = RingProducer(path, CAPACITY), RingConsumer(path, CAPACITY)
    producer.write(b"lost")
    consumer.resynchronise()
    assert consumer.read() is None
    assert producer.consumer_generation == 2


@pytest.mark.parametrize("length", [b"\xf0\x00\x00\x00", b"\xff\xff\x00\x00", b"\xff\xff\xff\xff"])
def test_a_broken_length_is_an_error_and_never_a_loop(path: Path, length: bytes) -> None:
    producer, consumer = RingProducer(path, CAPACITY), RingConsumer(path, CAPACITY)
    producer.write(b"x" * 100)
    with path.open("r+b") as file:
        file.seek(HEADER_BYTES)
        file.write(length)
    with pytest.raises(RingError):
        consumer.read()
    consumer.resynchronise()
    producer.write(b"good")
    assert consumer.read() == b"good"


@pytest.mark.parametrize("head", [CAPACITY + CELL, 2**63, 2**64 - 1])
def test_more_than_the_ring_holds_was_never_written(path: Path, head: int) -> None:
    producer, consumer = RingProducer(path, CAPACITY), RingConsumer(path, CAPACITY)
    producer.write(b"x" * 100)
    with path.open("r+b") as file:
        file.seek(HEAD_BYTE)
        file.write(head.to_bytes(8, "little"))
    with pytest.raises(RingError, match="bytes are said to be written, of 1024"):
        consumer.read()
    consumer.resynchronise()
    assert consumer.read() is None
