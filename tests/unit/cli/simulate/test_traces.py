"""Traces: three kinds are read, and whatever is wrong is told by row and field."""

from pathlib import Path

import pytest

from sidecar.cli.simulate.errors import SimulateError
from sidecar.cli.simulate.traces import read_trace

HEADER = "arrival_s,prompt_tokens,output_tokens\n"


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_generic_csv_starts_at_zero(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, "t.csv", HEADER + "5,10,20\n7.5,1,2\n"))
    assert trace.arrival_s.tolist() == [0.0, 2.5]
    assert trace.prompt_tokens.tolist() == [10, 1]
    assert trace.output_tokens.tolist() == [20, 2]


def test_tenants_are_read_where_there_are_some(tmp_path: Path) -> None:
    text = "tenant,arrival_s,prompt_tokens,output_tokens\na,0,1,1\nb,0,1,1\n"
    assert read_trace(written(tmp_path, "t.csv", text)).tenants == ("a", "b")


def test_azures_timestamps_have_seven_decimals(tmp_path: Path) -> None:
    text = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:16:50.9951690,396,109\n"
    )
    trace = read_trace(written(tmp_path, "azure.csv", text))
    assert trace.arrival_s[1] == pytest.approx(64.314579)


def test_mooncakes_milliseconds_and_hashes(tmp_path: Path) -> None:
    text = (
        '{"timestamp": 0, "input_length": 1030, "output_length": 5, "hash_ids": [0, 1, 2]}\n'
        '{"timestamp": 1500, "input_length": 1024, "output_length": 6, "hash_ids": [0, 9]}\n'
    )
    trace = read_trace(written(tmp_path, "m.jsonl", text))
    assert trace.arrival_s.tolist() == [0.0, 1.5]
    one, other = (trace.request(index, 16).prefix_keys for index in range(2))
    assert len(one) == 64
    assert one[:32] == other[:32]
    assert not set(one[32:]) & set(other[32:])


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("0,10,20\n1,,5\n", r"row 2: prompt_tokens: missing"),
        ("0,10,20\n1,5\n", r"row 2: output_tokens: missing"),
        ("0,10,20\n1,-3,5\n", r"row 2: prompt_tokens: -3 is negative"),
        ("-1,10,20\n", r"row 1: arrival_s: -1 is negative"),
        ("0,10,20\n3,1,1\n2,1,1\n", r"row 3: arrival_s: 2 is before"),
        ("0,10,0\n", r"row 1: output_tokens: 0 is less than 1"),
        ("0,10,1.5\n", r"row 1: output_tokens: 1.5 is not a whole number"),
        ("0,99999999999999999999,1\n", r"row 1: prompt_tokens: 9+ is more than 10000000"),
        ("0,10,many\n", r"row 1: output_tokens: 'many' cannot be read"),
        ("nan,10,1\n", r"row 1: arrival_s: 'nan' cannot be read"),
        ("", "holds no request"),
    ],
)
def test_a_bad_row_is_told_by_number_and_field(tmp_path: Path, rows: str, says: str) -> None:
    with pytest.raises(SimulateError, match=says):
        read_trace(written(tmp_path, "t.csv", HEADER + rows))


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(SimulateError, match="output_tokens: missing"):
        read_trace(written(tmp_path, "t.csv", "arrival_s,prompt_tokens\n0,1\n"))


def test_a_line_that_is_no_json_is_told_by_number(tmp_path: Path) -> None:
    text = '{"timestamp": 0, "input_length": 1, "output_length": 5}\n{\n'
    with pytest.raises(SimulateError, match="row 2: not JSON"):
        read_trace(written(tmp_path, "m.jsonl", text))
