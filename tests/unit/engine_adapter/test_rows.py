import numpy as np

from engine_adapter.agent.rows import newest, split
from engine_adapter.records import handle_of
from tests.unit.engine_adapter.samples import rows


def test_the_newest_row_of_each_request_wins() -> None:
    merged = newest(rows({"a": 4, "b": 9}, number=1), rows({"b": 10, "c": 1, "d": 2}, number=2))
    ages = dict(zip(merged.handles.tolist(), merged.ages.tolist(), strict=True))
    assert ages == {handle_of("a"): 4, handle_of("b"): 10, handle_of("c"): 1, handle_of("d"): 2}
    by_handle = dict(zip(merged.handles.tolist(), merged.vectors.tolist(), strict=True))
    assert by_handle[handle_of("a")] == [1, 4]
    assert by_handle[handle_of("b")] == [2, 10]


def test_rows_of_another_layout_replace_the_earlier_ones() -> None:
    merged = newest(rows({"a": 4}, dim=2), rows({"b": 1}, dim=3))
    assert merged.handles.tolist() == [handle_of("b")]


def test_a_split_keeps_every_row_once() -> None:
    whole = rows({"a": 1, "b": 2, "c": 3})
    first, rest = split(whole, 2)
    assert rest is not None
    assert np.concatenate((first.ages, rest.ages)).tolist() == [1, 2, 3]
    assert first.vectors.tolist() + rest.vectors.tolist() == whole.vectors.tolist()
    assert split(whole, 3) == (whole, None)
