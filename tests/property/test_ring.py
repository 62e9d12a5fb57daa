"""The ring, for any order of writes and reads, and between two real processes."""

import multiprocessing
import time
import zlib
from collections import deque
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from engine_adapter.ring import RingConsumer, RingProducer

CAPACITY = 256

operations = st.lists(
    st.one_of(
        st.lists(st.binary(max_size=80), min_size=1, max_size=3),  # a record in parts
        st.integers(min_value=1, max_value=6),  # so many reads
        st.just("resynchronise"),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(operations)
def test_whatever_fits_is_read_in_order_and_the_rest_is_counted(script: list[object]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ring"
        producer, consumer = RingProducer(path, CAPACITY), RingConsumer(path, CAPACITY)
        expected: deque[bytes] = deque()
        dropped = 0
        for operation in script:
            if isinstance(operation, list):
                record = b"".join(operation)
                fits = producer.write(*operation)
                expected.extend([record] if fits else [])
                dropped += not fits
                # A dropped record had a reason: the ring is not that small.
                assert fits or expected or len(record) + 4 > CAPACITY // 2
            elif isinstance(operation, int):
                for _ in range(operation):
                    assert consumer.read() == (expected.popleft() if expected else None)
            else:
                consumer.resynchronise()
                expected.clear()
        while expected:
            assert consumer.read() == expected.popleft()
        assert consumer.read() is None
        assert producer.dropped == dropped
        producer.close()
        consumer.close()


def produce(path: Path, records: int) -> None:
    producer = RingProducer(path, 1 << 14)
    payload = bytes(range(256)) * 8
    number = 0
    while number < records:
        body = number.to_bytes(8, "little") + payload[: number * 31 % 1500]
        if producer.write(zlib.crc32(body).to_bytes(4, "little"), body):
            number += 1
        else:
            time.sleep(0.0001)


def test_two_processes_lose_and_garble_nothing(tmp_path: Path) -> None:
    records = 10_000
    consumer = RingConsumer(tmp_path / "ring", 1 << 14)
    producer = multiprocessing.get_context("spawn").Process(target=produce, args=(tmp_path / "ring", records))
    producer.start()
    try:
        deadline_s = time.monotonic() + 60
        expected = 0
        while expected < records:
            record = consumer.read()
            if record is None:
                assert time.monotonic() < deadline_s, f"stuck at record {expected}"
                time.sleep(0.0001)
                continue
            assert zlib.crc32(record[4:]) == int.from_bytes(record[:4], "little")
            assert int.from_bytes(record[4:12], "little") == expected
            expected += 1
    finally:
        producer.kill()
        producer.join()
