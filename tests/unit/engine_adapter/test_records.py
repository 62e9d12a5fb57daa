from dataclasses import fields

import numpy as np
import pytest

from engine_adapter.records import Arrived, Engine, Finished, Record, Rows, Step, handle_of, unpack


def u64(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


def u32(*values: int) -> np.ndarray:
    return np.array(values, np.uint32)


def arrived(request_id: str = "chat-1", tenant: str = "team-ä") -> Arrived:
    return Arrived(handle_of(request_id), request_id, 12.5, 3, 256, 100, -7, tenant, u32(1, 2, 2**32 - 1))


def rows(dtype: int, kind: type) -> Rows:
    bits = np.arange(10).reshape(2, 5).astype(kind)
    return Rows(4, dtype, 5, u64(1, 2**64 - 1), u32(7, 0), bits)


RECORDS: list[Record] = [
    Engine(12, 1000, 16, 2048),
    arrived(),
    Step(5, 10**18, 2**40, 0.25, 77, 3, u64(1, 2), u32(3, 4), u32(5, 6), u64(9, 8, 7), 2),
    Step(1, 2, 0, 0.0, 0, 0, u64(), u32(), u32(), u64(), 0),
    Step(6, 2, 0, 0.0, 0, 0, u64(1), u32(2), u32(3), u64(4, 5), 1, False, u64(6, 7, 8)),
    Finished(2**64 - 1, 2, 256, 1.5, 0.5, 3, 120),
    rows(1, np.float16),
    rows(2, np.uint16),
    rows(3, np.float32),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_every_record_comes_back_as_it_was(record: Record) -> None:
    packed = record.pack()
    again = unpack(b"".join(packed) if isinstance(packed, tuple) else packed)
    assert type(again) is type(record)
    for field in fields(record):
        before, after = getattr(record, field.name), getattr(again, field.name)
        np.testing.assert_array_equal(after, before)
        if isinstance(before, np.ndarray):
            assert after.dtype == before.dtype
            assert after.shape == before.shape


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_that_is_cut_anywhere_is_refused(record: Record) -> None:
    packed = record.pack()
    whole = b"".join(packed) if isinstance(packed, tuple) else packed
    for end in range(len(whole)):
        with pytest.raises(ValueError):  # noqa: PT011 - any of them, with any text
            unpack(whole[:end])


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="broken record of 3 bytes"):
        unpack(b"\xffab")


def test_a_long_id_stays_unique_and_readable_within_256_bytes() -> None:
    one, other = "ä" * 300 + "1", "ä" * 300 + "2"
    names = [unpack(arrived(request_id).pack()).request_id for request_id in (one, other)]
    assert names[0] != names[1]
    assert all(len(name.encode()) <= 256 and name.startswith("ää") for name in names)


def test_handles_are_stable_and_never_zero() -> None:
    # The engine's scheduler and worker compute them apart: the value is part of the protocol.
    assert handle_of("chat-1") == handle_of("chat-1") != handle_of("chat-2")
    assert handle_of("") != 0
    assert handle_of("abc") == int.from_bytes(bytes.fromhex("d8bb14d833d59559"), "little")


def test_a_part_of_a_step_is_made_whole_by_the_step_before() -> None:
    before = Step(5, 0, 0, 0.0, 9, 0, u64(1, 2, 3, 4), u32(10, 20, 30, 40), u32(11, 21, 31, 41), u64(7), 1)
    part = Step(6, 50, 8, 0.25, 3, 1, u64(9, 3), u32(0, 30), u32(0, 5), u64(4), 0, False, u64(2, 4))
    whole = part.after(before)
    assert whole.running.tolist() == [1, 9, 3]
    assert whole.ages.tolist() == [11, 0, 30]
    assert whole.computed_tokens.tolist() == [12, 0, 5]
    assert whole.ages.dtype == whole.computed_tokens.dtype == np.uint32
    assert (whole.step, whole.plan_number, whole.preempted.tolist(), whole.whole) == (6, 8, [4], True)
