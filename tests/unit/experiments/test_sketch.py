"""What a block's requests add up to."""

import numpy as np
import pytest

from scheduler_service.experiments.figures import FIGURES
from scheduler_service.experiments.sketch import Sketch
from scheduler_service.experiments.tally import Tally
from scheduler_service.messages import Outcome


@pytest.mark.parametrize("seed", range(3))
def test_quantiles_are_within_one_percent_and_the_mean_is_exact(seed: int):
    values = np.random.default_rng(seed).lognormal(1.0, 1.5, 5000)
    sketch = Sketch()
    for value in values.tolist():
        sketch.add(value)
    assert sketch.mean == pytest.approx(values.mean())
    for share in (0.01, 0.5, 0.95, 0.99, 1.0):
        exact = float(np.quantile(values, share, method="inverted_cdf"))
        assert sketch.quantile(share) == pytest.approx(exact, rel=0.0101)


def test_tallies_of_two_replicas_add_up_through_the_store():
    outcomes = [
        Outcome(1, "stop", 10, 2.0, 0.5, 1, 30),
        Outcome(2, "length", 20, 4.0, 1.0),
        Outcome(3, "abort", 3, 9.0),
    ]
    whole, parts = Tally(), [Tally(), Tally()]
    for at, outcome in enumerate(outcomes):
        whole.add(outcome)
        parts[at % 2].add(outcome)
    read = Tally()
    for part in parts:
        read.merge(Tally.unpacked(part.packed()))
    assert read == whole
    found = {name: figure.of(whole, 10.0) for name, figure in FIGURES.items()}
    assert found["mean_latency"] == 3.0
    assert found["abort_rate"] == pytest.approx(1 / 3)
    assert found["preemptions"] == pytest.approx(1 / 3)
    assert found["mean_slowdown"] == pytest.approx(0.2)


@pytest.mark.parametrize("text", ["", "[]", '{"latency_s": {"sum": "x"}}', '{"colour": 3}', "null"])
def test_what_is_no_tally_is_refused(text: str):
    with pytest.raises(ValueError, match="."):
        Tally.unpacked(text)
