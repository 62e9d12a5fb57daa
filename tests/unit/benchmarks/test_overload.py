"""What an overload benchmark tells of what it measured."""

from typing import Any

import numpy as np

from benchmarks.overload import bound_mib, drawn, table

LIMITS = {"max_engines": 64, "max_requests_per_engine": 1024, "max_message_bytes": 1 << 20}


def results() -> dict[str, Any]:
    sample = {"p50_ms": 2.0, "p99_ms": 20.0, "streams": 5, "shed": 9, "refused_per_s": 25.0}
    memory = {"predictor_mib": 200.0, "scheduler_mib": 90.0, "store_mib": 3.0}
    unanswered = {"streams": 5, "shed": 9, "refused_per_s": 25.0}
    timed = {"engines": 2, "rows_per_s": 3000, "p50_ms": 1.0, "p99_ms": 10.0}
    return {
        "samples": [{"at_s": 5.0, **sample, **memory}, {"at_s": 10.0, **unanswered, **memory}],
        "capacity": timed,
        "unloaded": timed,
        "full": timed | {"engines": 7, "p99_ms": 15.0},
        "unloaded_afterwards": timed,
        "overload": timed | {"offered_rows_per_s": 1_600_000},
        "memory": {"most_mib": 200.0, "bound_mib": 800.0},
        "left": {"store": 0},
    }


def test_the_bound_grows_with_connections_engines_and_what_they_may_send() -> None:
    least = bound_mib(100.0, 0, LIMITS)
    assert least == 100 + 64 * (3 * 1 + 4) + 2 * 64 * 1
    assert bound_mib(100.0, 1024, LIMITS) == least + 128
    assert bound_mib(100.0, 0, LIMITS | {"max_message_bytes": 2 << 20}) == least + 64 * 3


def test_table_and_figure_show_what_was_measured_and_leave_out_samples_without_an_answer() -> None:
    assert "| predictor, MiB at most | 200 of 800 |" in table(results())
    assert "| p99, ms, 7 engines alone | 15.0 |" in table(results())
    latency, engines, _ = drawn(results()).axes
    assert np.asarray(latency.lines[0].get_xdata()).size == 1
    assert np.asarray(engines.lines[0].get_xdata()).size == 2
