"""Sources of requests."""

from pathlib import Path

import numpy as np
import pytest

from sidecar.cli.simulate.errors import SimulateError
from sidecar.cli.simulate.load_names import file_of, parse_load


@pytest.fixture
def trace(tmp_path: Path) -> str:
    rows = "".join(f"{second},{second + 1},{second + 2}\n" for second in range(101))
    path = tmp_path / "trace.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n" + rows)
    return str(path)


def test_alpaca_like_lengths_are_as_described() -> None:
    drawn = parse_load("poisson:alpaca").draw(200.0, 60, 0)
    assert np.median(drawn.output_tokens) == pytest.approx(110, rel=0.05)
    assert drawn.output_tokens.max() == 1024
    assert np.median(drawn.prompt_tokens) == pytest.approx(30, rel=0.05)


@pytest.mark.parametrize(("text", "cv"), [("poisson:alpaca", 1), ("poisson:alpaca?cv=3", 3), ("gamma:alpaca:0.5", 0.5)])
def test_arrivals_come_at_the_rate_and_as_irregularly_as_asked(text: str, cv: float) -> None:
    drawn = parse_load(text).draw(100.0, 600, 0)
    gaps = np.diff(drawn.arrival_s)
    assert drawn.mean_rate == pytest.approx(100, rel=0.1)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.1)


def test_a_burst_comes_all_at_once() -> None:
    drawn = parse_load("burst:alpaca").draw(10.0, 60, 0)
    assert len(drawn) == 600
    assert not drawn.arrival_s.any()


def test_a_seed_says_everything_and_another_says_something_else() -> None:
    load = parse_load("poisson:alpaca")
    one, same, other = (load.draw(50.0, 20, seed) for seed in (1, 1, 2))
    assert one.arrival_s.tolist() == same.arrival_s.tolist()
    assert one.output_tokens.tolist() == same.output_tokens.tolist()
    assert one.output_tokens.tolist() != other.output_tokens.tolist()


def test_a_trace_keeps_its_order_at_another_rate(trace: str) -> None:
    drawn = parse_load(trace).draw(4.0, None, 0)
    assert len(drawn) == 101
    assert drawn.arrival_s[-1] == pytest.approx(25.0)
    assert drawn.output_tokens[:2].tolist() == [2, 3]


def test_seeds_see_different_windows_of_a_long_trace(trace: str) -> None:
    load = parse_load(trace)
    first, other = load.draw(1.0, 20, 0), load.draw(1.0, 20, 1)
    assert first.output_tokens[0] == 2
    assert other.output_tokens[0] != 2
    assert other.arrival_s[0] == 0
    assert other.arrival_s[-1] <= 20


def test_lengths_of_a_file_can_come_in_another_process(trace: str) -> None:
    drawn = parse_load(f"poisson:{trace}").draw(20.0, 60, 0)
    assert set(drawn.output_tokens.tolist()) <= set(range(2, 103))
    assert file_of(f"gamma:{trace}:2") == file_of(trace) == Path(trace)
    assert file_of("poisson:alpaca?cv=3") is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("no-such-file.csv", "no such file"),
        ("poisson:", "names no lengths"),
        ("poisson:nothing", "no such file"),
        ("gamma:alpaca", "names no lengths"),
        ("gamma:alpaca:x", "cv: 'x'"),
        ("poisson:alpaca?cv=0", "cv: '0'"),
    ],
)
def test_what_names_no_load_is_refused(text: str, says: str) -> None:
    with pytest.raises(SimulateError, match=says):
        parse_load(text)
