"""What a soak tells of its samples."""

import numpy as np
import pytest

from benchmarks.soak import drawn, growth, table


def samples(an_hour: float) -> list[dict[str, float]]:
    """Two hours with noise, and a start that is left out."""
    noise = np.random.default_rng(0).normal(0, 0.5, 1440)
    return [
        {"at_s": 5.0 * n, "predictor_mib": 100 * (n > 100) + an_hour * n / 720 + more}
        for n, more in enumerate(noise.tolist())
    ]


@pytest.mark.parametrize("an_hour", [0.0, 3.0])
def test_growth_is_found_within_its_interval_and_nothing_where_there_is_none(an_hour: float) -> None:
    told = growth(samples(an_hour), "predictor_mib")
    assert told["low"] <= an_hour <= told["high"]
    assert told["high"] - told["low"] < 0.2


def test_table_and_figure_show_what_was_sampled() -> None:
    told = {"predictor_mib": growth(samples(3.0), "predictor_mib")}
    assert "| predictor, MiB | " in table(told)
    (line,) = drawn(samples(3.0)).axes[0].lines
    assert np.asarray(line.get_xdata()).size == 1440
