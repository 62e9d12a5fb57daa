"""Single records out of the columns that a step makes."""

from typing import Any

from predictor_service.step import Record, Records


def listed(records: Records | None) -> list[Record]:
    """Entry i is the record of the i-th request id."""
    assert records is not None
    columns = (records.handles, records.steps, records.ages, records.stages)
    lengths = (records.r0, records.r1, records.mean, records.median, records.p10, records.p90)
    rows = zip(*(column.tolist() for column in (*columns, *lengths)), strict=True)
    found: list[Record] = []
    for name, numbers, q in zip(records.request_ids, rows, records.q, strict=True):
        row: list[Any] = [name, *numbers, q, records.model]
        found.append(Record(*row))
    return found
